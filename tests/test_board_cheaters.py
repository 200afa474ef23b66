"""Entries that cheat: each first succeeds with its defence switched off, and then does not.

The entry's code runs in a process of its own.  ``where="plain"`` is that process without the sandbox and
``where="inside"`` the trainer's own process: the two defences that most cheats would have to break.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl")

from dream_envs import sandbox
from dream_envs.agents.engines import meter
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.core import DreamEnvsError
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.leaderboard import board, budget, entry, goal, remote, service, wire
from dream_envs.leaderboard.budget import Budget, Used
from dream_envs.play import as_agent, rollout
from dream_envs.tasks.composition import Composition

ENTRIES = Path(__file__).parent.parent / "leaderboard" / "entries"
WORLD = "board-hidden-of-these-tests"
needs_sandbox = pytest.mark.skipif(sandbox.available() is not None, reason=str(sandbox.available()))


def read(tmp_path: Path, code: str) -> entry.Read:
    folder = tmp_path / "cheat"
    folder.mkdir(exist_ok=True)
    (folder / "entry.toml").write_bytes((ENTRIES / "reinforce" / "entry.toml").read_bytes())
    (folder / "loop.py").write_text(code)
    return entry.read(folder)


@contextmanager
def plain(found: entry.Read) -> Iterator[tuple[int, int]]:
    """The entry's process without a sandbox, at home in its folder's parent."""
    to_read, write = os.pipe()
    read_fd, to_write = os.pipe()
    source = f"from dream_envs.leaderboard.guest import serve\nserve('cheat/loop.py', ({to_read}, {to_write}))"
    root = str(Path(board.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", source], cwd=found.folder.parent, pass_fds=(to_read, to_write),
        env={**os.environ, "PYTHONPATH": root, "SECRET": "of the organiser"},
    )  # fmt: skip
    os.close(to_read)
    os.close(to_write)
    try:
        yield read_fd, write
    finally:
        os.close(read_fd)
        os.close(write)
        process.kill()
        process.wait()


@contextmanager
def inside(found: entry.Read) -> Iterator[tuple[int, int]]:
    """The entry in the trainer's own process: a thread."""
    to_read, write = os.pipe()
    read_fd, to_write = os.pipe()
    from dream_envs.leaderboard.guest import serve

    thread = threading.Thread(target=serve, args=(str(found.folder / "loop.py"), (to_read, to_write)), daemon=True)
    thread.start()
    try:
        yield read_fd, write
    finally:
        os.close(write)
        thread.join(10)
        for fd in (read_fd, to_read, to_write):
            os.close(fd)


@contextmanager
def boxed(found: entry.Read) -> Iterator[tuple[int, int]]:
    with board.Guest(found, Budget(1, 1, 1, 20.0)) as guest:
        yield guest.fds


@contextmanager
def started(tmp_path: Path, code: str, where: str) -> Iterator[remote.Remote]:
    with {"plain": plain, "inside": inside, "boxed": boxed}[where](read(tmp_path, code)) as fds:
        its = remote.Remote(fds)
        before, remote._remote = remote._remote, its
        try:
            yield its
        finally:
            remote._remote = before


PAID = """
from dream_envs.baselines.loops import dream
from dream_envs.baselines.recipe import Loop
from dream_envs.rewards import agents_of, reward
from dream_envs.core import Score
import msgspec


@reward("cheat")
def cheat(episode):
    return {agent: Score(float(look(episode))) for agent in agents_of(episode, "solver")}

class Settings(msgspec.Struct, frozen=True):
    pass

LOOP = Loop("cheat", "x", Settings, lambda chosen, steps: msgspec.structs.replace(
    dream.recipe(dream.Settings(), steps), reward={"solver": cheat, "challenger": "learnability()"}))
"""
LABELS = PAID + "def look(episode):\n    return len(episode.tasks[-1].answer)\n"
HASHES = (
    PAID
    + """
from dream_envs.core import content_hash
def look(episode):
    task = episode.tasks[-1]
    for state in "abcdefghijklmnop":
        if content_hash(task.family, task.prompt, task.meta["ops"] + state) == task.id:
            return 1
    return 0
"""
)
SEEDS = PAID + "def look(episode):\n    return len(episode.seed)\n"


def episodes(count: int = 2) -> list[Any]:
    """Games of depth 1 in a hidden world, answered by an oracle."""
    game = ChallengerSolver(Composition(world=WORLD), solvers=1, level=1)
    seats = {"challenger": as_agent("oracle", game), "solver": as_agent("oracle", game)}
    return list(rollout(game, seats, count, seed=WORLD))


def paid(its: remote.Remote) -> list[float]:
    its.call("recipe", steps=3, changes={})
    return [s.value for found in remote.entry_reward(role="solver").score(episodes()) for s in found.values()]


@pytest.mark.parametrize("code", [LABELS, HASHES, SEEDS], ids=["labels", "ids that are hashes of answers", "seeds"])
def test_an_answer_is_in_nothing_that_an_entry_is_shown(tmp_path: Path, monkeypatch, code: str) -> None:
    with started(tmp_path, code, "plain") as its, monkeypatch.context() as off:
        off.setattr(remote, "bare", lambda episode: episode)
        assert all(value > 0 for value in paid(its)), "the cheat works where nothing is taken out"
    with started(tmp_path, code, "plain") as its:
        assert paid(its) == [0.0, 0.0]


#: Cheats of a process: the function ``advantages`` returns 1 for what it got away with.
def does(body: str, first: str = "") -> str:
    lines = "".join(f"        {line}\n" for line in body.strip().splitlines())
    failed = "    except Exception as error:\n        return [0.0] * len(rows)\n"
    return (
        f"{PAID}\ndef look(episode):\n    return 0\n{first}\ndef advantages(rows, rng):\n    get = __import__\n"
        f"    try:\n{lines}        return [1.0] * len(rows)\n{failed}"
    )


PROCESS = {
    "reads the world out of the job": does('assert "world" in open("job.json").read()'),
    "reads another entry's folder": does('assert get("os").listdir("..")[0] and open("secret.txt").read()'),
    "reads the organiser's environment": does('assert get("os").environ["SECRET"]'),
    "keeps state between seeds": does('open("state", "a").write("x")\nassert open("state").read()'),
    "changes its own source": does('open("cheat/loop.py", "a").write("# x")'),
    "leaves another model's file": does('open("final.safetensors", "wb").write(b"x")'),
    "forks and detaches": does('os = get("os")\nif os.fork() == 0:\n    os._exit(0)'),
    "starts a program": does('get("subprocess").run(["true"], check=True)'),
    "opens a socket": does('get("socket").socket()'),
    "serves the local network": does('s = get("socket").create_server(("127.0.0.1", 0))\ns.close()'),
    "signals the trainer": does('os = get("os")\nassert os.getppid() > 1\nos.kill(os.getppid(), 0)'),
    "looks at the trainer's memory": does("open(f\"/proc/{get('os').getppid()}/maps\").read()"),
    "fills the disk": does('f = open("big", "wb")\nf.truncate(2**30)\nf.close()'),
    "installs a package": does('open(get("numpy").__path__[0] + "/x_of_a_cheat.py", "w").close()'),
}


@pytest.mark.parametrize("name", PROCESS)
@needs_sandbox
def test_its_process_can_do_nothing_but_answer(tmp_path: Path, name: str) -> None:
    (tmp_path / "job.json").write_text(f'{{"world": "{WORLD}"}}')
    (tmp_path / "secret.txt").write_text("x")
    rows = [{"role": "solver", "group": 0, "value": 1.0, "advantage": 0.0, "tokens": 2, "progress": 0.0}]
    found = {}
    for where in ("plain", "boxed"):
        with started(tmp_path, PROCESS[name], where) as its:
            found[where] = its.call("advantages", rows=rows, seed="0")
    (Path(np.__path__[0]) / "x_of_a_cheat.py").unlink(missing_ok=True)
    assert found == {"plain": [1.0], "boxed": [0.0]}


PATCHES = {
    "the meter": (
        "dream_envs.agents.engines.meter", "METER.samples = -10**9", lambda: meter.METER.samples, lambda x: x >= 0,
    ),
    "the verifier": (
        "dream_envs.tasks.composition", "Composition.verify = lambda *_: type('S', (), {'value': 1.0})",
        lambda: Composition().verify(Composition().make("a", "A"), "x").value, lambda x: x == 0.0,
    ),
    "the measurement": (
        "dream_envs.leaderboard.goal", "outcome = None", lambda: goal.outcome, lambda x: x is not None,
    ),
    "the budget": (
        "dream_envs.leaderboard.budget", "Budget.left = lambda self, used: True",
        lambda: Budget(1, 1, 1, 1.0).left(Used(9, 9, 9, 9)), lambda x: x is False,
    ),
    "what is taken out": (
        "dream_envs.leaderboard.remote", "bare = lambda episode: episode",
        lambda: remote.bare(episodes(1)[0]).tasks[-1].answer, lambda x: x == "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PATCHES)
def test_what_it_patches_is_its_own(tmp_path: Path, monkeypatch, name: str) -> None:
    module, statement, look, sound = PATCHES[name]
    monkeypatch.setattr(Composition, "verify", Composition.verify)  # put back what is patched here
    monkeypatch.setattr(Budget, "left", Budget.left)
    monkeypatch.setattr(goal, "outcome", goal.outcome)
    monkeypatch.setattr(remote, "bare", remote.bare)
    target = statement.partition(" = ")[0]
    body = f'exec({statement!r}, vars(get("{module}", fromlist=["x"])))'
    rows = [{"role": "solver", "group": 0, "value": 1.0, "advantage": 0.0, "tokens": 2, "progress": 0.0}]
    for where in ("plain", "inside"):
        with started(tmp_path, does(body), where) as its:
            assert its.call("advantages", rows=rows, seed="0") == [1.0], f"{target} was patched somewhere"
        assert sound(look()) == (where == "plain")
    meter.start()


RECIPES = {
    "an oracle for a seat": ({"seats": {"solver": "oracle"}}, "seat 'oracle'"),
    "a model for a reward": ({"reward": {"solver": "judge(engine=http)"}}, "call no model"),
    "a module for a reward": ({"reward": {"solver": "os:system"}}, "call no model"),
    "a module for sources": ({"sources": "os:getcwd"}, "a function of a loop"),
    "private sources": ({"sources": "dream_envs.leaderboard.board:run_all"}, "a function of a loop"),
    "another engine": ({"learning": {"engine": "vllm"}}, "not its engine"),
    "code for a learner's setting": ({"learning": {"x": "a:b"}}, "not its engine or its code"),
    "a key more": ({"world": "x"}, "world"),
    "texts for arguments": ({"args": {"family": "x"}}, "args"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_data_that_names_what_it_may(tmp_path: Path, name: str) -> None:
    change, said = RECIPES[name]
    with started(tmp_path, LABELS, "plain") as its:
        sound = its.call("recipe", steps=3, changes={})
    assert remote.checked(sound).learner
    with pytest.raises(DreamEnvsError, match=said):
        remote.checked({**sound, **change})


#: The pipe to the trainer, found among all objects of the process.
FIND = """
def fd():
    guests = [o for o in __import__("gc").get_objects() if type(o).__name__ == "Guest"]
    return guests[0].fds[1]
"""
WRONG = {
    "numbers that are not finite": (does("return [float('nan')] * len(rows)"), "not all finite"),
    "too few": (does("return []"), "0 numbers"),
    "an error": ("def train(policy): pass\ndef advantages(rows, rng): raise OSError('x' * 10**6)", "OSError"),
    "never": (does("while True: pass"), "no answer in time"),
    "its own end": (does("get('os')._exit(0)"), "has ended"),
    "a flood": (does("get('os').write(fd(), b'x' * 100)", FIND), "no JSON|at most"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_comes_back_is_checked(tmp_path: Path, monkeypatch, name: str) -> None:
    code, said = WRONG[name]
    monkeypatch.setattr(remote, "PATIENCE", 3.0)
    with (
        started(tmp_path, code, "plain") as its,
        pytest.raises(DreamEnvsError, match=said),
    ):
        its.call("advantages", rows=[{"role": "solver"}], seed="0")


def served(tmp_path: Path, code: str, samples: int = 2000, steps: int = 1000) -> tuple[service.Service, Any]:
    """The entry's ``train`` against a service in this process; the service, and the weights before."""
    read_now = meter.start()
    agent = LocalAgent()
    limits = Budget(samples=samples, tokens=10**9, steps=steps, seconds=10.0)

    def used() -> Used:
        return Used(read_now.samples, read_now.sampled, read_now.trained, read_now.steps)

    family = Composition(world="world-0")
    held = [family.make("a", "AB").id, family.make("b", "AB").id]
    host = service.Service(agent, "world-0", held, limits, used, lambda step, its: None, "board-secret-label")
    before = {k: v.clone() for k, v in agent.model.state_dict().items()}
    with started(tmp_path, code, "plain") as its:
        host.serve(its, 60.0)
    return host, before


def changed(host: service.Service, before: Any) -> bool:
    return any(not bool((v == before[k]).all()) for k, v in host.agent.model.state_dict().items())


def test_it_trains_on_what_the_policy_sampled_and_on_nothing_else(tmp_path: Path) -> None:
    honest = (
        "def train(p):\n    s = p.solve([p.problems(2, 1)[0].id], 4)[0]\n    p.step({x.id: 1.0 for x in s}, 1e-3)\n"
    )
    host, before = served(tmp_path, honest)
    assert changed(host, before) and meter.METER.samples == 4 and meter.METER.steps == 1
    for row in ("{-1: 1.0}", "{999: 1.0}", "{0: float('nan')}", "{0: float('inf')}"):
        forged = honest.replace("p.step({x.id: 1.0 for x in s}", f"p.step({row}")
        with pytest.raises(DreamEnvsError, match="step"):
            served(tmp_path, forged)
    for call in ("_ask('train_text', text='x')", "_ask('_weights')", "_ask('serve')", "_ask('agent')"):
        with pytest.raises(DreamEnvsError, match="no call"):
            served(tmp_path, f"def train(p):\n    p.{call}\n")


def test_the_budget_ends_every_call_and_is_not_the_entrys(tmp_path: Path) -> None:
    code = (
        "def train(p):\n    one = p.problems(1, 1)[0].id\n    while True:\n        try:\n"
        "            p.solve([one], 100)\n"
        "        except BaseException:\n            if p.used().samples_left == 0:\n                return\n"
    )
    served(tmp_path, code, samples=350)
    assert meter.METER.samples == 400, "the call in which it ends is the last one"


def test_problems_kept_for_measuring_are_never_told(tmp_path: Path) -> None:
    host, _ = served(
        tmp_path, "def train(p):\n    for _ in range(40):\n        p.problems(2, 64)\n    p.propose(300)\n"
    )
    prompts = {task.prompt for task in host.tasks}
    assert len(prompts) > 800 and not prompts & {"a:AB", "b:AB"}
    task = host.family.make("a", "A")
    number = host._told(task)["id"]
    made = [host._mutate(number) for host.calls in range(64)]
    assert any(m is None for m in made) and all(m is None or m["prompt"] != "a:AB" for m in made)


def test_the_seed_that_it_is_told_names_no_world(tmp_path: Path) -> None:
    """The label of a world is all that its tables are made of."""
    code = "def train(p):\n    raise RuntimeError('seed ' + p.seed)\n"
    with pytest.raises(DreamEnvsError, match=r"seed [0-9a-f]{16}$") as told:
        served(tmp_path, code)
    assert "board-secret-label" not in str(told.value)


def test_labels_from_the_suites_own_verifier_are_of_another_world() -> None:
    """Whoever imports the family and labels with it labels by chance: the tables are not in the suite."""
    hidden, public = Composition(world=WORLD), Composition()
    rng = np.random.default_rng(0)
    tasks = [public.generate(rng, 1) for _ in range(500)]
    right = np.mean([hidden.verify(hidden.make(t.meta["start"], t.meta["ops"]), t.answer).value for t in tasks])
    assert np.mean([public.verify(t, t.answer).value for t in tasks]) == 1.0 and right < 0.15


def test_weights_do_not_fit_into_the_source(tmp_path: Path) -> None:
    size = sum(p.numel() for p in LocalAgent().model.parameters())
    assert size / 2 > entry.LINES * entry.WIDTH, "a byte a number would not fit"


def test_the_clock_is_caught_by_whoever_runs_it_again(tmp_path: Path) -> None:
    """Nothing keeps an entry from looking at a clock; two runs of one that does have other hashes."""
    code = (
        "def train(p):\n    t = __import__('time').time_ns()\n    s = p.solve([p.problems(2, 1)[0].id], 2)[0]\n"
        "    p.step({x.id: float(t % 1000 + 1) for x in s}, 1e-3)\n"
    )
    states = [served(tmp_path, code)[0].agent.model.state_dict() for _ in range(2)]
    assert any(not bool((v == states[1][k]).all()) for k, v in states[0].items())
    same = [served(tmp_path, code.replace("t % 1000 + 1", "7"))[0].agent.model.state_dict() for _ in range(2)]
    assert all(bool((v == same[1][k]).all()) for k, v in same[0].items())


def test_without_a_sandbox_no_code_of_an_entry_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "available", lambda: "sandbox: bubblewrap is not installed: apt install bubblewrap")
    with pytest.raises(DreamEnvsError, match=r"in a sandbox alone; .*apt install bubblewrap"):
        board.Guest(read(tmp_path, LABELS), budget.CLASSES[1])


def test_frames_are_bounded(monkeypatch) -> None:
    first, second = os.pipe()
    os.write(second, (2**31).to_bytes(4, "little"))
    with pytest.raises(DreamEnvsError, match="at most"):
        wire.receive(first, 1.0)
    os.close(second)
    with pytest.raises(DreamEnvsError, match="ended"):
        wire.receive(first, 1.0)
    monkeypatch.setattr(wire, "MOST", 10)
    with pytest.raises(DreamEnvsError, match="at most 10"):
        wire.send(first, "x" * 100)
    os.close(first)
