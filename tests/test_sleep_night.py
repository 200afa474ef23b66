"""A night: when it is due, what it starts from and leaves, blocks of nights, phases left out, nights undone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from _sleep import DREAMS, LEARNING, SMALL, bits, day, generator, generators, reader, same, with_
from _tiny import collector, learner, texts

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep import dreams as dreams_module
from dream_envs.agents.sleep import night as night_module
from dream_envs.agents.sleep.consolidation import Day, SleepConsolidation
from dream_envs.agents.sleep.dreams import FamilyQuestions
from dream_envs.agents.sleep.experience import Buffer
from dream_envs.agents.sleep.frozen import FrozenLearner
from dream_envs.agents.sleep.night import Night, SleepSettings
from dream_envs.agents.sleep.seeding import Seeded
from dream_envs.core import Action, DreamEnvsError, Limits, Request, Usage


def rested(settings: SleepSettings, agent: LocalAgent | None = None, **more: Any) -> SleepConsolidation:
    """A reader before its first day; its weights are nobody else's."""
    return SleepConsolidation(FrozenLearner(agent or reader().snapshot()), generator(), settings=settings, **more)


def sleeper(settings: SleepSettings = SMALL, **more: Any) -> SleepConsolidation:
    """A reader who has lived through a day."""
    found = rested(settings, **more)
    found.live(day())
    return found


def spoilt(how: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Seeded]:
    """Knowledge Seeding that gives spoilt weights."""

    def seed(teacher: LocalAgent, student: LocalAgent, *args: Any, **more: Any) -> Seeded:
        copy = student.snapshot()
        with torch.no_grad():
            for weight in copy.model.parameters():
                weight.copy_(how(weight))
        return Seeded(copy, 1, (0.0, 0.0), None)

    return seed


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SleepConsolidation, Night]:
    """A night with all phases."""
    folder, one = tmp_path_factory.mktemp("night") / "nights" / "00", sleeper()
    state = generators()
    night = one.sleep(folder)
    assert generators() == state
    return folder, one, night


# ---- what it is and leaves -----------------------------------------


def test_a_night_leaves_its_weights_and_a_record(plain: tuple[Path, SleepConsolidation, Night]) -> None:
    folder, one, night = plain
    weights = bits(LocalAgent(str(folder)))
    assert same(bits(one.snapshot()), weights) and not same(weights, bits(reader()))
    told = json.loads((folder / "night.json").read_text())["nights"][0]
    assert one.nights == [night] and night.number == 0 and night.lived == 16 and not night.undone
    assert told["before"] == night.before and night.before is not None and night.after is not None
    assert night.tokens > 0 and night.divergence is not None and night.divergence[0] > 0
    assert [d["kind"] for d in night.dreams] == ["memory", "fiction", "day"]
    assert all(0 < d["pairs"] <= d["asked"] == 6 and len(d["examples"]) <= 3 for d in night.dreams)
    assert night.good == sum(d["reward"] == 1 for d in night.dreams)
    for dream in night.dreams:
        assert (dream["chosen"] == "rejected") == (dream["reward"] is None) == (dream["after"] is None)
    assert len(one.buffer) == 0  # what was consolidated is forgotten


def test_a_finished_night_is_taken_over_and_not_slept_again(
    plain: tuple[Path, SleepConsolidation, Night], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, one, night = plain
    monkeypatch.setattr(night_module.NightRunner, "night", lambda *a: pytest.fail("slept again"))
    other = sleeper()
    assert other.sleep(folder) == night and other.nights == [night] and len(other.buffer) == 0
    assert same(bits(other.snapshot()), bits(one.snapshot()))


def test_a_broken_night_ends_as_it_would_have(plain: tuple[Path, SleepConsolidation, Night], tmp_path: Path) -> None:
    """What stands there is half of its weights."""
    folder, _, night = plain
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 9)
    assert sleeper().sleep(tmp_path) == night
    for name in ("model.safetensors", "night.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_another_seed_is_another_night_and_what_is_measured_enters_the_record_alone(
    plain: tuple[Path, SleepConsolidation, Night], tmp_path: Path
) -> None:
    settings, seen = with_(SMALL, dreaming=None), list[dict[str, torch.Tensor]]()
    other = sleeper(settings, seed="1", curve=lambda agent: seen.append(bits(agent)) or {"1": float(len(seen))})
    night = other.sleep(tmp_path / "1")
    assert night.dreams == [] and night.before != plain[2].before  # another probe
    assert (night.curve_before, night.curve_after) == ({"1": 1.0}, {"1": 2.0})
    assert same(seen[0], bits(reader())) and same(seen[1], bits(other.snapshot()))
    assert sleeper(settings, seed="1").sleep(tmp_path / "2") == with_(night, curve_before={}, curve_after={})


# ---- phases -----------------------------------------


@pytest.mark.parametrize("seeding", [True, False])
def test_every_phase_can_be_left_out(seeding: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No dreaming asks no dreamer, no seeding seeds nothing: with neither it is fine-tuning, and still a night."""
    gone = "fine_tune" if seeding else "seed_knowledge"
    monkeypatch.setattr(night_module, gone, lambda *a, **k: pytest.fail(f"{gone} was called"))
    monkeypatch.setattr(night_module, "tried", lambda *a, **k: pytest.fail("dreamt"))
    rule = with_(LEARNING, steps=12, batch=16, lr=5e-3)
    one = sleeper(with_(SMALL, seeding=seeding, dreaming=None, apart=0.0, learning=rule))
    night = one.sleep(tmp_path)
    assert night.dreams == [] and night.good == 0 and (night.divergence is not None) == seeding
    assert night.tokens == pytest.approx(12 * 16 * 3, rel=0.1)  # name, image, end
    closed = night_module.likelihood
    assert closed(one.learner.agent, day()) > closed(reader(), day()) + 1.0  # type: ignore[attr-defined]


def test_without_a_generator_nothing_is_dreamt_and_nothing_is_probed(tmp_path: Path) -> None:
    for settings in (SMALL, SleepSettings(dreaming=None, alert=0.1)):
        with pytest.raises(DreamEnvsError, match=r"\A[^\n]*FamilyQuestions[^\n]*\Z"):
            SleepConsolidation(FrozenLearner(reader()), settings=settings)
    rule = with_(SMALL, dreaming=None, tolerance=0.0)
    one = SleepConsolidation(FrozenLearner(reader().snapshot()), settings=rule)
    one.live(day())
    night = one.sleep(tmp_path)
    assert night.before is None and night.after is None and not night.undone


@pytest.mark.parametrize(("lived", "tried"), [(16, True), (2, True), (1, False)])
def test_dreams_of_the_day_alone_are_measured_with_a_part_of_it(lived: int, tried: bool, tmp_path: Path) -> None:
    """Nothing is made up to measure with (SEAL's way): one experience is kept for it, of one alone nothing can be; no
    dream asks what is measured with."""
    rule = with_(SMALL, dreaming=with_(DREAMS, memory=0, fiction=0, dreams=2, size=64, top=2), seeding=False, apart=0.1)
    one = sleeper(rule)
    one.buffer.clear()
    one.live(day()[:lived])
    seen: list[list[str]] = []
    plain = night_module.tried
    with pytest.MonkeyPatch.context() as patch:

        def spy(draft: Any, dreams: Any, lived: Any, probe: Any, *rest: Any) -> Any:
            seen.append([str(e.messages) for e in probe])
            assert probe and not {str(e.messages) for d in dreams for e in d.pairs} & set(seen[-1])
            return plain(draft, dreams, lived, probe, *rest)

        patch.setattr(night_module, "tried", spy)
        night = one.sleep(tmp_path)
    assert [len(probe) for probe in seen] == [1] * tried
    assert all((d["reward"] is None) != tried for d in night.dreams if d["pairs"])


def test_a_night_after_nothing_is_one_line(tmp_path: Path) -> None:
    one = sleeper()
    one.buffer.clear()
    with pytest.raises(DreamEnvsError, match=r"\Athere is no experience[^\n]*\Z"):
        one.sleep(tmp_path / "00")
    assert not (tmp_path / "00").exists()


# ---- what is lived through -----------------------------------------


def test_answers_with_a_context_are_lived_through_and_others_are_not() -> None:
    one = sleeper()
    one.buffer.clear()
    context = {"role": "system", "content": day()[0].messages[0]["content"]}
    user = {"role": "user", "content": "a:I"}
    asked = [([context, user], "solver"), ([user], "solver"), ([context, user], "dreamer")]
    requests: list[Any] = [
        Request(messages=m, agent=f"{role}_0", role=role, seed=7, limits=Limits(8)) for m, role in asked
    ]
    actions = one.act(requests)
    assert [(e.messages, e.reply, e.kind) for e in one.buffer.all()] == [([context, user], actions[0].text, "day")]


def test_save_and_load_keep_buffer_and_nights(plain: tuple[Path, SleepConsolidation, Night], tmp_path: Path) -> None:
    one, other = sleeper(), SleepConsolidation(FrozenLearner(), generator(), settings=SMALL)
    one.nights = [plain[2]]
    one.save(str(tmp_path / "saved"))
    other.load(str(tmp_path / "saved"))
    assert other.buffer.all() == one.buffer.all() and other.nights == one.nights
    reader().model.save_pretrained(tmp_path / "plain")
    reader().tokenizer.save_pretrained(tmp_path / "plain")
    other.load(str(tmp_path / "plain"))
    assert len(other.buffer) == 0 and other.nights == []


# ---- rolling back -----------------------------------------

POISONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "noise": lambda w: w + torch.linspace(-1, 1, w.numel()).reshape(w.shape),
    "nan": lambda w: torch.full_like(w, float("nan")),
}


@pytest.mark.parametrize("name", POISONS)
def test_a_spoilt_night_is_undone_and_a_tolerant_one_is_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(night_module, "seed_knowledge", spoilt(POISONS[name]))
    for tolerance in (0.5, None):
        one = sleeper(with_(SMALL, dreaming=None, tolerance=tolerance))
        night = one.sleep(tmp_path / str(tolerance))
        assert night.undone == (tolerance is not None) == same(bits(one.snapshot()), bits(reader()))
        assert one.nights == [night] and len(one.buffer) == 16 * night.undone


def test_poisoned_dreams_are_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dream is gibberish, and a judge who lies calls each of them good: the probe, made before, tells."""
    inner = dreams_module.imagine

    def mad(*args: Any, **more: Any) -> Any:
        pairs, proposals = inner(*args, **more)
        if "novelty" in more:  # a dream, and not the probe
            pairs = [with_(e, reply="zzzz") for e in pairs]
        return pairs, proposals

    monkeypatch.setattr(night_module, "imagine", mad)
    monkeypatch.setattr(
        night_module, "tried", lambda student, dreams, *a: [with_(d, reward=1.0, chosen="top") for d in dreams]
    )
    rule = with_(LEARNING, steps=16, batch=16, lr=2e-2)
    one = sleeper(with_(SMALL, seeding=False, tolerance=0.5, dreamt=0.9, learning=rule))
    night = one.sleep(tmp_path)
    assert night.good == 3 and night.undone
    assert same(bits(one.snapshot()), bits(reader()))


def test_an_undone_night_leaves_weights_and_curriculum_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a learner that never slept: after a day and a poisoned night, everything is where it would be."""
    monkeypatch.setattr(night_module, "seed_knowledge", spoilt(POISONS["noise"]))
    awake, slept = (collector(tmp_path / name, memory=Buffer()) for name in ("awake", "slept"))
    expected = learner()
    expected.improve(awake, 2, Day(tmp_path / "awake" / "days" / "00"))
    settings = with_(SMALL, dreaming=None, tolerance=0.5)
    one = SleepConsolidation(learner(), FamilyQuestions(slept.game.family), settings=settings)
    one.improve(slept, 2, slept.run)
    assert one.nights[0].undone and same(bits(one.snapshot()), bits(expected.snapshot()))
    told = {"run": 0, "read": 0}  # a size in bytes, and prompt tokens since the last night
    assert {**slept.state(), **told} == {**awake.state(), **told}
    assert texts(tmp_path / "slept") == texts(tmp_path / "awake")
    assert len(one.buffer) == len(slept.memory or ()) > 0  # nothing was consolidated, so nothing is forgotten


# ---- fast and slow weights, and when it is time to sleep -----------------------------------------

#: With next to no learning rate a night ends where it began.
STILL = with_(SMALL, dreaming=None, learning=with_(LEARNING, lr=1e-12))


def scaled(by: float) -> LocalAgent:
    found = reader().snapshot()
    with torch.no_grad():
        for weight in found.model.parameters():
            weight *= by
    return found


def close(folder: Path, agent: LocalAgent) -> bool:
    found, expected = bits(LocalAgent(str(folder))), bits(agent)
    return all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)


@pytest.mark.parametrize(("block", "begins"), [(0, [1.0, 0.9, 0.8, 0.7]), (1, [1.1] * 4), (3, [1.0, 0.9, 1.1, 0.7])])
def test_a_block_ends_in_the_weights_it_began_with(block: int, begins: list[float], tmp_path: Path) -> None:
    """Every day scales the weights; the run is moved in the middle of a block, and its learner is read from disk."""
    FrozenLearner(scaled(1.1)).save(str(tmp_path / "began"))
    root = tmp_path / "one"
    for number, by in enumerate((1.0, 0.9, 0.8, 0.7)):
        one = rested(with_(STILL, block=block), scaled(by))
        if number:
            one.load(str(root / "state"))
            one.learner = FrozenLearner(scaled(by))
        one.live(day())
        shutil.copytree(tmp_path / "began", root / "began" / str(number))
        night = one.sleep(root / "nights" / str(number), root / "began" / str(number))
        assert close(root / "nights" / str(number), scaled(begins[number]))
        assert night.slow == (begins[number] == 1.1) and night.number == number
        one.save(str(root / "state"))
        if number == 0:
            root = Path(shutil.move(root, tmp_path / "two"))


def test_a_block_whose_slow_night_is_undone_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = rested(with_(SMALL, dreaming=None, block=2, tolerance=0.5))
    nights = []
    for number in range(4):
        one.live(day())
        with monkeypatch.context() as patch:
            if number == 1:
                values = iter([0.0, -9.0])
                patch.setattr(night_module, "likelihood", lambda *a: next(values))  # noqa: B023
            nights.append(one.sleep(tmp_path / str(number)))
        assert (one.slow is None) == (number == 2), number
    assert [(n.slow, n.undone) for n in nights] == [(False, False), (True, True), (True, False), (False, False)]


def test_a_block_is_lived_through_until_its_slow_night(tmp_path: Path) -> None:
    """Two days of a block of two: behind the fast night the first day is still there, behind the slow one nothing."""
    one = rested(with_(STILL, block=2))
    one.live(day("0"))
    one.sleep(tmp_path / "0")
    assert one.buffer.all() == day("0")
    one.live(day("1", "J"))
    slow = one.sleep(tmp_path / "1")
    assert slow.slow and slow.lived == 32 and len(one.buffer) == 0


def test_what_was_said_at_first_and_is_lost_awake_is_due(tmp_path: Path) -> None:
    one = rested(with_(SMALL, alert=0.1))
    inner: Any = one.learner
    assert one.due() is None and one.rested is None  # nobody rested yet
    one.rest()
    assert one.rested is not None and len(one.rested[0]) > 0 and one.due() is None
    inner.agent = scaled(0.5)
    assert one.due() == "retention"
    one.save(str(tmp_path / "saved"))
    other = rested(with_(SMALL, alert=0.1))
    other.load(str(tmp_path / "saved"))
    assert other.due() == "retention" and other.rested == one.rested
    inner.agent = scaled(float("nan"))
    assert one.due() == "retention"
    inner.agent = scaled(0.5)
    one.live(day())
    one.sleep(tmp_path / "night")
    assert one.due() is None  # a new day: what is said now is what is to be kept


class Ten:
    """A learner whose every prompt has ten tokens."""

    def act(self, requests: Sequence[Request]) -> list[Action]:
        return [Action(f"reply {r.messages[-1]['content']}", usage=Usage(10, 1)) for r in requests]

    def improve(self, collector: Any, budget: int, run: Any) -> Any:
        raise NotImplementedError

    def save(self, path: str) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)

    def load(self, path: str) -> None:
        assert Path(path).is_dir()

    def snapshot(self) -> Any:
        return self


def asked(text: str, context: bool = True, role: str = "learner") -> Request:
    head = [{"role": "system", "content": "a context"}] if context else []
    return Request(messages=[*head, {"role": "user", "content": text}], agent=f"{role}_0", role=role, seed=0)  # type: ignore[list-item]


def test_the_context_budget_counts_what_was_read_with_a_context(tmp_path: Path) -> None:
    one, other = (SleepConsolidation(Ten(), settings=SleepSettings(dreaming=None, reading=30)) for _ in range(2))
    one.act([asked("a"), asked("b"), asked("c", context=False)])
    assert one.due() is None and one.read == 20 and len(one.buffer) == 2
    one.act([asked("d", role="dreamer")])
    assert one.due() == "context" and len(one.buffer) == 2
    one.save(str(tmp_path / "x"))
    other.load(str(tmp_path / "x"))
    assert other.due() == "context" and other.buffer.all() == one.buffer.all()


def test_a_full_buffer_is_due() -> None:
    one = SleepConsolidation(Ten(), settings=SleepSettings(dreaming=None, capacity=2))
    one.act([asked("a")])
    assert one.due() is None
    one.act([asked("b")])
    assert one.due() == "buffer"


@pytest.mark.parametrize("bad", [{"block": -1}, {"alert": -0.1}, {"reading": 0}, {"waits": True, "forget": False}])
def test_numbers_out_of_range_are_one_line(bad: dict[str, Any]) -> None:
    with pytest.raises(DreamEnvsError, match=rf"\A[^\n]*{next(iter(bad))}=[^\n]*\Z"):
        SleepSettings(**bad)
