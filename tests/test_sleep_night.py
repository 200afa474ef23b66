"""A night: it is undone when it is spoilt, each phase can be left out, what it starts from and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from _sleep import DREAMS, LEARNING, SMALL, bits, day, generators, generator, reader, same, with_
from _tiny import learner, practice, texts
from dream_envs.agents.sleep.days import Place
from dream_envs.agents.sleep.frozen import FrozenLearner

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep import days as days_module
from dream_envs.agents.sleep import dreams as dreams_module
from dream_envs.agents.sleep import night as night_module
from dream_envs.agents.sleep.consolidation import SleepConsolidation
from dream_envs.agents.sleep.dreams import FamilyQuestions
from dream_envs.agents.sleep.experience import Buffer
from dream_envs.agents.sleep.night import Night, SleepSettings
from dream_envs.agents.sleep.seeding import Seeded
from dream_envs.core import DreamEnvsError, Limits, Request


def sleeper(settings: SleepSettings = SMALL, **more: Any) -> SleepConsolidation:
    """A reader who has lived through a day; its weights are nobody else's."""
    found = SleepConsolidation(FrozenLearner(reader().snapshot()), generator(), settings=settings, **more)
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


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return bits(LocalAgent(str(folder)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SleepConsolidation, Night]:
    """A night with all phases."""
    folder, one = tmp_path_factory.mktemp("night") / "nights" / "00", sleeper()
    state = generators()
    night = one.sleep(folder)
    assert generators() == state
    return folder, one, night


# ---- what it is and leaves ---------------------------------------------------------------------------------------


def test_a_night_leaves_evening_dawn_and_a_record(plain: tuple[Path, SleepConsolidation, Night]) -> None:
    folder, one, night = plain
    assert sorted(p.name for p in folder.iterdir()) == ["dawn", "evening", "night.json"]
    assert same(weights_of(folder / "evening"), bits(reader()))
    dawn = weights_of(folder / "dawn")
    assert same(bits(one.learner.agent), dawn) and not same(dawn, bits(reader()))  # type: ignore[attr-defined]
    told = json.loads((folder / "night.json").read_text())
    assert one.nights == [night] and night.number == 0 and night.lived == 16 and not night.undone
    assert told["before"] == night.before and night.before is not None and night.after is not None
    assert night.tokens > 0 and night.divergence is not None and night.divergence[0] > 0
    assert [d["kind"] for d in night.dreams] == ["memory", "fiction", "day"]
    assert all(0 < d["pairs"] <= d["asked"] == 6 and len(d["examples"]) <= 3 for d in night.dreams)
    assert night.good == sum(d["reward"] == 1 for d in night.dreams)
    for dream in night.dreams:
        assert (dream["chosen"] == "rejected") == (dream["reward"] is None) == (dream["after"] is None)
    assert len(one.buffer) == 0  # forgotten in the morning


def test_a_finished_night_is_taken_over_and_not_slept_again(
    plain: tuple[Path, SleepConsolidation, Night], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, one, night = plain
    monkeypatch.setattr(night_module.NightRunner, "night", lambda *a: pytest.fail("slept again"))
    other = SleepConsolidation(FrozenLearner(), generator(), settings=SMALL)
    assert other.sleep(folder) == night and other.nights == [night] and len(other.buffer) == 0
    assert same(bits(other.learner.agent), bits(one.learner.agent))  # type: ignore[attr-defined]


def test_a_broken_night_ends_as_it_would_have(plain: tuple[Path, SleepConsolidation, Night], tmp_path: Path) -> None:
    """Killed in the middle, twice: what stands there is the evening, and half a dawn."""
    folder, _, night = plain
    again = sleeper()
    evening = tmp_path / "00" / "evening"
    evening.mkdir(parents=True)
    again.save(str(evening))
    (tmp_path / "00" / "dawn").mkdir()
    (tmp_path / "00" / "dawn" / "config.json").write_text("{")
    fresh = SleepConsolidation(FrozenLearner(), generator(), settings=SMALL)  # knows nothing of the day
    assert fresh.sleep(tmp_path / "00") == night
    assert same(weights_of(tmp_path / "00" / "dawn"), weights_of(folder / "dawn"))
    assert (tmp_path / "00" / "night.json").read_bytes() == (folder / "night.json").read_bytes()


def test_another_seed_is_another_night(plain: tuple[Path, SleepConsolidation, Night], tmp_path: Path) -> None:
    other = sleeper(with_(SMALL, dreaming=None), seed="1")
    night = other.sleep(tmp_path)
    assert night.dreams == [] and night.before != plain[2].before  # another probe


# ---- phases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeding", [True, False])
def test_every_phase_can_be_left_out(seeding: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No dreaming asks no dreamer, no seeding seeds nothing: with neither it is fine-tuning, and still a night."""
    gone = "fine_tune" if seeding else "seed_knowledge"
    monkeypatch.setattr(night_module, gone, lambda *a, **k: pytest.fail(f"{gone} was called"))
    for part in ("tried", "importance", "random_expert"):
        if part != "random_expert":
            monkeypatch.setattr(dreams_module, part, lambda *a, **k: pytest.fail("dreamt"))
    rule = with_(LEARNING, steps=12, batch=16, lr=5e-3)
    one = sleeper(with_(SMALL, seeding=seeding, dreaming=None, apart=0.0, learning=rule))
    night = one.sleep(tmp_path)
    assert night.dreams == [] and night.good == 0 and (night.divergence is not None) == seeding
    assert night.tokens == pytest.approx(12 * 16 * 3, rel=0.1)  # name, image, end
    closed = night_module.likelihood
    assert closed(one.learner.agent, day()) > closed(reader(), day()) + 1.0  # type: ignore[attr-defined]


def test_without_an_imagination_nothing_is_dreamt_and_nothing_is_probed(tmp_path: Path) -> None:
    with pytest.raises(DreamEnvsError, match="FamilyQuestions") as caught:
        SleepConsolidation(FrozenLearner(reader()), settings=SMALL)
    assert "\n" not in str(caught.value)
    one = SleepConsolidation(FrozenLearner(reader().snapshot()), settings=with_(SMALL, dreaming=None, tolerance=0.0))
    one.live(day())
    night = one.sleep(tmp_path)
    assert night.before is None and night.after is None and not night.undone


@pytest.mark.parametrize(("lived", "tried"), [(16, True), (2, True), (1, False)])
def test_dreams_of_the_day_alone_are_measured_with_a_part_of_it(lived: int, tried: bool, tmp_path: Path) -> None:
    """Nothing is made up to measure with (SEAL's way): one experience is kept for it, of one alone nothing can be; no
    dream asks what is measured with."""
    rule = with_(SMALL, dreaming=with_(DREAMS, memory=0, fiction=0, dreams=2, size=64, top=2), seeding=False, apart=0.1)
    one = SleepConsolidation(FrozenLearner(reader().snapshot()), generator(), settings=rule)
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
    with pytest.raises(DreamEnvsError, match="nothing was lived through") as caught:
        one.sleep(tmp_path / "00")
    assert "\n" not in str(caught.value) and not (tmp_path / "00").exists()


# ---- what is lived through ---------------------------------------------------------------------------------------


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
    one = sleeper()
    one.nights = [plain[2]]
    one.save(str(tmp_path / "saved"))
    other = SleepConsolidation(FrozenLearner(), generator(), settings=SMALL)
    other.load(str(tmp_path / "saved"))
    assert other.buffer.all() == one.buffer.all() and other.nights == one.nights
    other.load(str(plain[0] / "dawn"))  # a plain folder
    assert len(other.buffer) == 0 and other.nights == []


# ---- rolling back ------------------------------------------------------------------------------------------------

POISONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "noise": lambda w: w + torch.linspace(-1, 1, w.numel()).reshape(w.shape),
    "nan": lambda w: torch.full_like(w, float("nan")),
}


@pytest.mark.parametrize("name", POISONS)
def test_a_spoilt_night_is_undone_and_a_tolerant_one_is_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(night_module, "seed_knowledge", spoilt(POISONS[name]))
    settings = with_(SMALL, dreaming=None)
    one = sleeper(with_(settings, tolerance=0.5))
    night = one.sleep(tmp_path / "strict")
    assert night.undone and one.nights == [night]
    assert same(bits(one.learner.agent), bits(reader()))  # type: ignore[attr-defined]
    two = sleeper(settings)
    night = two.sleep(tmp_path / "tolerant")
    assert not night.undone and not same(bits(two.learner.agent), bits(reader()))  # type: ignore[attr-defined]


def test_poisoned_dreams_are_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dream is gibberish, and a judge who lies calls each of them good: the probe, made before, tells."""
    inner = dreams_module.imagine

    def mad(*args: Any, **more: Any) -> Any:
        pairs, proposals = inner(*args, **more)
        if "novelty" in more:  # a dream, and not the probe
            pairs = [with_(e, reply="zzzz") for e in pairs]
        return pairs, proposals

    lie = lambda dreams, *a: [with_(d, reward=1.0, chosen="top") for d in dreams]  # noqa: E731
    monkeypatch.setattr(night_module, "imagine", mad)
    monkeypatch.setattr(night_module, "tried", lambda student, dreams, *a: lie(dreams))
    rule = with_(LEARNING, steps=16, batch=16, lr=2e-2)
    one = sleeper(with_(SMALL, seeding=False, tolerance=0.5, dreamt=0.9, learning=rule))
    night = one.sleep(tmp_path)
    assert night.good == 3 and night.undone
    assert same(bits(one.learner.agent), bits(reader()))  # type: ignore[attr-defined]


def test_an_undone_night_restores_weights_and_curriculum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a learner that never slept: after a day and a poisoned night, everything is where it would be."""
    monkeypatch.setattr(night_module, "seed_knowledge", spoilt(POISONS["noise"]))
    for folder in ("awake", "slept"):
        env = practice(tmp_path / folder, memory=Buffer())
        inner = learner()
        if folder == "awake":
            inner.improve(env, {}, 2, Place(tmp_path / folder / "days" / "00"))
            expected, state = bits(inner.engine), env.state()
            continue
        settings = with_(SMALL, dreaming=None, tolerance=0.5)
        one = SleepConsolidation(inner, FamilyQuestions(env.game.family), settings=settings)
        monkeypatch.setattr(days_module, "_recall", _poisoning(days_module._recall))
        one.improve(env, {}, 2, env.run)
        assert one.nights[0].undone and same(bits(inner.engine), expected)
        assert {**env.state(), "run": 0} == {**state, "run": 0}  # (the run's is a size in bytes, of seconds too)
        assert env.state() == json.loads((tmp_path / folder / "days" / "00" / "day.json").read_text())["env"]
        assert texts(tmp_path / "slept") == texts(tmp_path / "awake")
        assert len(one.buffer) == len(env.memory) > 0  # nothing was consolidated, so nothing is forgotten


def _poisoning(recall: Callable[..., None]) -> Callable[..., None]:
    """The night spoils the curriculum as well, before it is called back."""

    def spoil(one: Any, env: Any, place: Path) -> None:
        env.history.clear()
        env.samples.clear()
        env.memory.clear()
        env.syllabus.store.rewrite()
        recall(one, env, place)

    return spoil
