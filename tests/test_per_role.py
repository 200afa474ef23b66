"""An adapter for each role on one base: a row moves its role's alone; sampled, kept, saved and resumed apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

pytest.importorskip("trl")

from test_trl_contract import TOKENIZER, draw_ids, model, train

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import MAIN, wearing
from dream_envs.agents.training.adapters import adapted, add_roles
from dream_envs.agents.training.critic import Critic
from dream_envs.agents.training.settings import CriticSettings, LearnerSettings, Updates
from dream_envs.agents.training.trl_adapter import RowTrainer, TrainingRow
from dream_envs.baselines.loop import conduct
from dream_envs.baselines.recipe import Options
from dream_envs.core import DreamEnvsError, Limits, Request
from dream_envs.play import read_episodes
from dream_envs.seeds import stream

ROLES = ("asker", "solver")


def rows(role: str, *labels: str, like: list[TrainingRow] | None = None) -> list[TrainingRow]:
    """Eight rows of a role; ``like``: other tokens and advantages, equally long."""
    rng = stream("per-role", role, *labels)
    if like is not None:
        other = [[int(rng.integers(6, len(TOKENIZER))) for _ in r.completion[:-1]] + [1] for r in like]
        return [
            msgspec.structs.replace(r, completion=ids, advantage=-2 * r.advantage)
            for r, ids in zip(like, other, strict=True)
        ]
    return [TrainingRow(*draw_ids(rng), float(rng.normal()), float(rng.random()), role) for _ in range(8)]


def adapters(net: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Trained tensors by role; a plain adapter's are the solver's."""
    found: dict[str, dict[str, torch.Tensor]] = {"asker": {}, "solver": {}}
    for name, value in net.named_parameters():
        role = "asker" if ".asker." in name else "solver" if f".{MAIN}." in name else ""
        if role and "lora_" in name:
            found[role][name] = value.detach().clone()
    return found


def split() -> tuple[Any, dict[str, str]]:
    net = adapted(model(), 4, 0)
    return net, add_roles(net, "solver", ROLES, "0")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


HOW: dict[str, dict[str, Any]] = {
    "one update": {},
    "micro-batches": {"micro_batch": 4},
    "several updates": {"updates": Updates(epochs=2, minibatches=2)},
    "penalty": {"kl": 0.1, "updates": Updates(epochs=2)},
    "critic": {"updates": Updates(epochs=2), "critic": True},
}


def trained(folder: Path, given: list[TrainingRow], how: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    net, names = split()
    own = dict(how)
    if own.pop("critic", False):
        own["critic"] = Critic(16, CriticSettings(whiten=False, weight=0.0, lr=1e-9), 0)
    train(folder, lambda step: given, net, adapters=names, steps=1, **own)
    return adapters(net)


@pytest.mark.parametrize("how", HOW)
def test_a_row_moves_the_adapter_of_its_role_alone(how: str, tmp_path: Path) -> None:
    """The solver's adapter ends in the same bits whatever the asker's rows were, which move the asker's."""
    asks, solves = rows("asker"), rows("solver")
    mixed = [row for pair in zip(asks, solves, strict=True) for row in pair]
    others = rows("asker", like=asks)
    changed = [row for pair in zip(others, solves, strict=True) for row in pair]
    before = adapters(split()[0])
    one, two = trained(tmp_path / "a", mixed, HOW[how]), trained(tmp_path / "b", changed, HOW[how])
    assert equal(one["solver"], two["solver"])
    assert not equal(one["asker"], two["asker"])
    assert not equal(before["solver"], one["solver"]) and not equal(before["asker"], one["asker"])


def test_rows_of_one_role_train_as_with_one_adapter(tmp_path: Path) -> None:
    """Sources' rows too: whose seat they are of says which adapter."""
    solves = [*rows("solver"), *[msgspec.structs.replace(r, role="", seat="solver") for r in rows("solver", "more")]]
    plain = adapted(model(), 4, 0)
    train(tmp_path / "plain", lambda step: solves, plain, steps=3)
    net, names = split()
    train(tmp_path / "split", lambda step: solves, net, steps=3, adapters=names)
    assert equal(adapters(plain)["solver"], adapters(net)["solver"])
    assert equal(adapters(net)["asker"], adapters(split()[0])["asker"])


def test_values_are_those_of_the_policy_not_of_the_penaltys_reference(tmp_path: Path, monkeypatch: Any) -> None:
    """Between the pass over the policy and the use of its values TRL reads the reference, on the same model."""
    own, seen = RowTrainer._old_values, list[float]()

    def checked(self: RowTrainer, out: dict[str, Any]) -> torch.Tensor:
        found = own(self, out)
        self._values = []
        seen.append(float((own(self, out) - found).abs().max()))
        return found

    monkeypatch.setattr(RowTrainer, "_old_values", checked)
    critic = Critic(16, CriticSettings(), 0)
    with torch.no_grad():  # a new head says 0 to everything
        for value in critic.parameters():
            value.add_(0.3)
    net = adapted(model(), 4, 0)
    given = [*rows("solver"), *rows("solver", "more")]
    train(tmp_path, lambda step: given, net, steps=3, lr=1e-2, critic=critic, kl=0.1, updates=Updates(minibatches=2))
    assert len(seen) == 3 and max(seen) < 1e-5


STEPS = 6
SET: dict[str, Any] = {
    "learner.lora_rank": 4, "learner.per_role": "first", "learner.pool.share": 0.6, "learner.pool.every": 2,
    "learner.save_every": 2, "mixture.challenger": 16, "eval.games": 8, "eval.every": 100,
}  # fmt: skip


def spiral(folder: Path, **more: Any) -> Any:
    options = Options("spiral", steps=STEPS, seed="roles", set={**SET, **more})
    return conduct(options, folder, quiet=True, resume=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roles") / "run"
    spiral(folder)
    return folder


def asked() -> list[Request]:
    return [
        Request(messages=[{"role": "user", "content": "deal:J\n"}], agent=f"{role}_0", role=role, seed=i,
                limits=Limits(4))
        for i in range(32)
        for role in ("first", "second")
    ]  # fmt: skip


def test_a_run_delivers_both(run: Path) -> None:
    """The main role's weights are the run's; either adapter is a folder by itself."""
    final = run / "checkpoints" / "final"
    whole = LocalAgent("nano/kuhn").reloaded(final)
    assert whole.adapters == {"first": MAIN, "second": "second"}
    said = whole.act(asked())
    for role, place in (("first", final), ("second", final / "adapters" / "second")):
        alone = LocalAgent(str(place)).act(asked())
        assert all(a.text == b.text for a, b, r in zip(said, alone, asked(), strict=True) if r.role == role)
    dressed = LocalAgent("nano/kuhn", adapters={"second": str(final / "adapters" / "second")})
    base = LocalAgent("nano/kuhn").act(asked())
    for got, one, plain, request in zip(dressed.act(asked()), said, base, asked(), strict=True):
        assert got.text == (one if request.role == "second" else plain).text
    tensors = whole.model.state_dict()
    assert any("lora_B.default" in k and bool(v.any()) for k, v in tensors.items())
    assert any("lora_B.second" in k and bool(v.any()) for k, v in tensors.items())


def test_past_selves_are_of_their_role(run: Path) -> None:
    met = {(t.role, t.author) for e in read_episodes(run / "episodes.jsonl") for t in e.turns if t.author}
    assert all(author.startswith(f"{role}@") for role, author in met) and {r for r, _ in met} == {"first", "second"}


def test_a_run_that_goes_on_ends_in_the_same_weights(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for name in ("summary.json", "report.html"):
        (copy / name).unlink(missing_ok=True)
    shutil.rmtree(copy / "checkpoints" / "final")
    shutil.rmtree(copy / "checkpoints" / f"checkpoint-{STEPS}")
    before = {p: p.read_bytes() for p in (run / "checkpoints" / "final").rglob("*.safetensors")}
    spiral(copy)
    after = {run / p.relative_to(copy): p.read_bytes() for p in (copy / "checkpoints/final").rglob("*.safetensors")}
    assert len(before) == 3 and before == after


def test_measuring_a_finished_run_again_is_the_same(run: Path, tmp_path: Path) -> None:
    """From the files of ``final`` alone: what was measured is both roles, each with its own adapter."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    first = msgspec.json.decode((copy / "summary.json").read_bytes())
    (copy / "summary.json").unlink()
    spiral(copy)
    again = msgspec.json.decode((copy / "summary.json").read_bytes())
    assert first["evaluation"] == again["evaluation"]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DreamEnvsError, match="per_role='first': with lora_rank"):
        LearnerSettings(per_role="first")
    with pytest.raises(DreamEnvsError, match="per_role='third': a role that learns: first, second"):
        spiral(tmp_path / "a", **{"learner.per_role": "third"})
    with pytest.raises(DreamEnvsError, match="per_role='first': one phase, awake"):
        spiral(tmp_path / "b", sleep=True)
    assert not (tmp_path / "b").exists()
    net = split()[0]
    trainable = [n for n, p in net.named_parameters() if p.requires_grad]
    for name in ("asker", ""):
        with wearing(net, name):
            pass
        assert [n for n, p in net.named_parameters() if p.requires_grad] == trainable and net.active_adapter == MAIN


def test_weights_that_are_pushed_are_the_merged_ones_and_the_policy_stays() -> None:
    """By the base's own names, each once: what a plain model would hold with the adapter merged in."""
    from dream_envs.agents.training.adapters import adapted, merged

    agent = LocalAgent("nano/compose")
    names = set(dict(agent.model.named_parameters()))
    agent.model = adapted(agent.model, 4, 0)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in agent.model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1)
    before = {k: v.clone() for k, v in agent.model.state_dict().items()}
    pushed = list(merged(agent.model))
    wanted = dict(agent.snapshot().model.named_parameters())
    assert [n for n, _ in pushed] == list(dict(pushed)) and set(dict(pushed)) == names == set(wanted)
    for name, value in pushed:
        torch.testing.assert_close(value, wanted[name].data)
    assert all(torch.equal(v, before[k]) for k, v in agent.model.state_dict().items())
