"""Rounds of skill evolution and what they left: skill sets as files, probes, replay across time, controls on tests.

``Rounds`` feeds a game that keeps skills (``SkillEvolution``) and carries both sides' skills from round to round.
``SkillLearner`` plays them with a model that stays as it is, lets every saved skill set answer the probes of all
rounds, picks one, and compares it with the controls on private tests.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.frozen import FrozenLearner
from dream_envs.agents.sleep.night import Night, SleepSettings
from dream_envs.baselines.loop import Findings
from dream_envs.baselines.skill_night import consolidate
from dream_envs.core import Action, Episode, Progress, Start
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.skill_evolution import question_key
from dream_envs.envs.skill_facts import mean
from dream_envs.envs.skill_prompts import write_tasks
from dream_envs.play import EpisodeWriter, read_episodes, rollout
from dream_envs.runs import read_json, write_json
from dream_envs.seeds import stream
from dream_envs.tasks.skills import SkillSet

Row = dict[str, Any]
TIES: dict[str, Callable[[Row], Any]] = {
    "earliest": lambda row: row["round"],
    "latest": lambda row: -row["round"],
    "shortest": lambda row: (row["words"], row["round"]),
}
#: What a context's tests are answered with: round numbers, the choice of the replay, one prompt alone.
CONTROLS = ("none", "first", "last", "random", "replay", "oracle", "one_shot")
REPLAY, TESTS, ONE_SHOT, FOUND, TABLE, STATE = (
    "replay.jsonl", "tests.jsonl", "one_shot.jsonl", "skills.json", "skills.md", "rounds.json",
)  # fmt: skip


class Probe(msgspec.Struct, frozen=True):
    """A task that is asked again of every skill set; ``kind``: ``hard`` (it was failed) or ``easy`` (solved)."""

    kind: str
    round: int
    question: str
    rubrics: tuple[str, ...]


class Track(msgspec.Struct):
    """A context's history: skill sets by round, S_0 first, of both sides; questions asked; probes; a row a round."""

    reasoner: list[SkillSet] = msgspec.field(default_factory=lambda: [SkillSet()])
    challenger: list[SkillSet] = msgspec.field(default_factory=lambda: [SkillSet()])
    asked: list[str] = []
    probes: list[Probe] = []
    rows: list[Row] = []


def probes_of(facts: Mapping[str, Any]) -> list[Probe]:
    """The failed task with the lowest share of passed rubrics, the solved one with the fewest; of equals the first."""
    rows, found = facts["tasks"], list[Probe]()
    failed = [r for r in rows if r.get("solved") == 0]
    solved = [r for r in rows if r.get("solved") == 1]
    if failed:
        found.append(_probe("hard", min(failed, key=lambda r: r["share"]), facts["round"]))
    if solved:
        found.append(_probe("easy", min(solved, key=lambda r: len(r["rubrics"])), facts["round"]))
    return found


def _probe(kind: str, row: Mapping[str, Any], number: int) -> Probe:
    return Probe(kind, number, row["question"], tuple(row["rubrics"]))


class Rounds(Curriculum):
    """One episode a context and round.  ``names``: the contexts; ``folder``: where skills are written."""

    def __init__(self, game: Any, names: Sequence[str], folder: Path, *, seed: str, store: ChallengeStore) -> None:
        super().__init__(game, Mixture(len(names), 0, 0), seed=seed, store=store)
        self.folder, self.tracks = folder, {name: Track() for name in names}

    def plan(self, round: int) -> list[Start]:
        """A round on every context, with the skills as the last one left them."""
        first = round * len(self.tracks)
        return [
            Start(
                first + i,
                self.game.begin(
                    name, round=round, reasoner=t.reasoner[-1], challenger=t.challenger[-1], asked=tuple(t.asked)
                ),
            )
            for i, (name, t) in enumerate(self.tracks.items())
        ]

    def absorb(self, round: int, episodes: Sequence[Episode]) -> None:
        """Keep the new skills, the probes and what was asked, and write the files of the contexts."""
        for episode in episodes:
            facts = episode.outcome.facts
            track = self.tracks[facts["context"]]
            for side in ("reasoner", "challenger"):
                getattr(track, side).append(SkillSet.of(facts["texts"][side]["after"]))
            track.asked += [question_key(r["question"]) for r in facts["tasks"] if r["valid"]]
            track.probes += probes_of(facts)
            rejects = [r["reject"] for r in facts["tasks"] if not r["valid"]]
            keys = ("round", "rates", "failed", "passed", "edits", "skills", "agreement", "costs")
            track.rows.append({**{key: facts[key] for key in keys}, "rejects": rejects})
            self._write(facts["context"], track)

    def _write(self, name: str, track: Track) -> None:
        where, last = self.folder / name, len(track.rows)
        where.mkdir(parents=True, exist_ok=True)
        for side, prefix in (("reasoner", "round"), ("challenger", "challenger")):
            sets: list[SkillSet] = getattr(track, side)
            for number in range(last + 1) if last == 1 else (last,):
                (where / f"{prefix}-{number}.md").write_text(sets[number].markdown(), "utf-8")
            (where / f"{prefix}-{last}.diff").write_text(sets[last - 1].diff(sets[last]), "utf-8")

    def metrics(self) -> dict[str, float]:
        """Means over contexts of the newest round: solved by either denominator, words of skills, agreement."""
        newest = [track.rows[-1] for track in self.tracks.values() if track.rows]
        right, of = (sum(row["agreement"][key] for row in newest) for key in ("right", "of"))
        values = {
            "solved/dropped": mean(row["rates"]["dropped"] for row in newest),
            "solved/counted": mean(row["rates"]["counted"] for row in newest),
            "words": mean(row["skills"]["reasoner"]["after"]["words"] for row in newest),
            "rejected": float(sum(len(row["rejects"]) for row in newest)),
            "agreement": right / of if of else None,
        }
        return {f"skills/{name}": value for name, value in values.items() if value is not None}

    def state(self) -> dict[str, Any]:
        """With the history of every context."""
        return {**super().state(), "tracks": msgspec.to_builtins(self.tracks)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from this state."""
        super().restore(state)
        self.tracks = msgspec.convert(state["tracks"], dict[str, Track])


class Examined(msgspec.Struct, frozen=True):
    """How the skill sets are examined: ``repeats`` of every probe, ``tests`` a context asked ``attempts`` times.

    ``tie``: which of the best is taken (``TIES``); ``base``: whether S_0, no skill at all, can be chosen; ``one_shot``:
    whether the control of one prompt is played.  ``night``: how the chosen skills are put into weights; None: not.
    """

    repeats: int = 5
    tests: int = 12
    attempts: int = 1
    tie: str = "earliest"
    base: bool = True
    one_shot: bool = True
    night: SleepSettings | None = None


def smoothed(solved: Iterable[float]) -> float:
    """``(sum + 1) / (count + 1)``: the paper's rho of a probe set."""
    values = list(solved)
    return (sum(values) + 1) / (len(values) + 1)


def select(rows: Sequence[Row], tie: str) -> tuple[Row, list[int]]:
    """The row of the largest product, and the rounds that share it; ``tie`` decides among those."""
    best = max(row["product"] for row in rows)
    level = [row for row in rows if row["product"] >= best - 1e-12]
    return min(level, key=TIES[tie]), [row["round"] for row in level]


class SkillLearner(FrozenLearner):
    """Plays the rounds with a frozen model in every free seat, then examines what they left; a killed run goes on.

    With ``how.night`` it sleeps once behind that, and has the night's weights from then on.
    """

    name = "skills"

    def __init__(self, game: Any, model: LocalAgent, seed: str, folder: Path, how: Examined) -> None:
        super().__init__(model)
        self.game, self.seed, self.folder, self.how = game, seed, folder, how
        self.stop: Callable[[], bool] = lambda: False
        self.found: Row = {}
        self.nights: list[Night] = []
        self.drawn = Counter[str]()  # completions of the examination, by role

    def improve(self, collector: Any, budget: int, run: Any) -> Progress:
        """``budget`` rounds, each with a checkpoint behind it, then the examination."""
        first, there = 0, read_json(self.folder / STATE)
        if there is None:
            collector.begin()
        else:
            collector.restore(there["collector"])
            first = there["rounds"]
        for number in range(first, budget):
            collector.round(number, self)
            collector.log(number, {})
            write_json(self.folder / STATE, {"rounds": number + 1, "collector": collector.state()})
            if self.stop():
                return Progress(number + 1, sum(collector.samples.values()))
        seats = {**{role.name: self for role in self.game.roles}, **collector.seats}
        self.examine(collector.curriculum.tracks, seats)
        for role, count in self.drawn.items():
            collector.samples[role] = collector.samples.get(role, 0) + count
        return Progress(budget, sum(collector.samples.values()), collector.means())

    def load(self, path: str) -> None:
        """The weights, which never changed, and what the examination found."""
        super().load(path)
        self.found = read_json(self.folder / FOUND) or {}
        self.nights = msgspec.convert(self.found.get("nights", []), list[Night])

    def findings(self) -> Findings:
        """What the examination says of the rounds; the rest is measured by the runner."""
        return Findings(str(self.found.get("verdict", "")))

    def examine(self, tracks: Mapping[str, Track], seats: Mapping[str, Any]) -> Row:
        """Replay and tests of every skill set; writes ``skills.json``, ``skills.md`` and each context's choice."""
        shots = self._one_shots(list(tracks), seats) if self.how.one_shot else {}
        sets = {name: _unique([*t.reasoner, *([shots[name]] if name in shots else [])]) for name, t in tracks.items()}
        answered = self._replayed(tracks, seats)
        scored = self.tested(sets, seats)
        contexts = {
            name: self._context(name, t, answered.get(name, {}), scored.get(name, {}), shots.get(name))
            for name, t in tracks.items()
        }
        self.found = {
            "how": msgspec.to_builtins(self.how), "contexts": contexts, **_summed(list(contexts.values()), self.seed),
            "costs": {name: _costs(self.folder / name) for name in ("episodes.jsonl", REPLAY, TESTS, ONE_SHOT)},
        }  # fmt: skip
        if self.how.night is not None:
            self.found["consolidated"] = consolidate(self, tracks, contexts, self.how.night)
            self.found["nights"] = msgspec.to_builtins(self.nights)
        self.found["verdict"] = _verdict(self.found)
        write_json(self.folder / FOUND, self.found)
        (self.folder / TABLE).write_text(_markdown(self.found), "utf-8")
        for name, its in contexts.items():
            chosen = tracks[name].reasoner[its["selected"]["round"]]
            (self.folder / "skills" / name / "selected.md").write_text(chosen.markdown(), "utf-8")
        return self.found

    def _played(self, game: Any, starts: list[Start], seats: Mapping[str, Any], file: str) -> list[Episode]:
        """The episodes of these starts, those that the file has are not played again."""
        out = EpisodeWriter(self.folder / file)
        for _ in rollout(game, seats, starts, seed=f"{self.seed}/{file}", out=out):
            pass
        out.close()
        found = sorted(read_episodes(self.folder / file), key=lambda e: e.index)
        own = {role for role, agent in seats.items() if agent is self}  # the probes themselves were given
        self.drawn.update(turn.role for episode in found for turn in episode.turns if turn.role in own)
        return found

    def _one_shots(self, names: Sequence[str], seats: Mapping[str, Any]) -> dict[str, SkillSet]:
        starts = [Start(i, self.game.begin(name)) for i, name in enumerate(names)]
        game = self.game.variant(mode="one_shot")
        found = self._played(game, starts, {"reasoner_editor": seats["reasoner_editor"]}, ONE_SHOT)
        return {e.outcome.facts["context"]: SkillSet.of(e.outcome.facts["texts"]["reasoner"]["after"]) for e in found}

    def _replayed(self, tracks: Mapping[str, Track], seats: Mapping[str, Any]) -> dict[str, dict[str, list[list[Any]]]]:
        """By context and hash of a skill set: for each repeat, whether each probe was solved (None: not known)."""
        starts = list[Start]()
        for name, track in tracks.items():
            text = write_tasks([(p.question, p.rubrics) for p in track.probes], self.game.notation)
            for skills, _ in itertools.product(_unique(track.reasoner) if text else (), range(self.how.repeats)):
                starts.append(_given(len(starts), self.game.begin(name, reasoner=skills), text))
        if not starts:
            return {}
        most = max(len(track.probes) for track in tracks.values())
        game = self.game.variant(mode="exam", tasks=most, evolve=(), retest=False)
        found: dict[str, dict[str, list[list[Any]]]] = {}
        for episode in self._played(game, starts, {k: seats[k] for k in ("reasoner", "judge")}, REPLAY):
            facts = episode.outcome.facts
            own = found.setdefault(facts["context"], {})
            own.setdefault(facts["skills"]["reasoner"]["before"]["hash"], []).append(
                [row.get("solved") for row in facts["tasks"]]
            )
        return found

    def tested(
        self, sets: Mapping[str, Sequence[SkillSet]], seats: Mapping[str, Any], file: str = TESTS
    ) -> dict[str, dict[str, Row]]:
        """By context and hash: solved and share of each half of the private tests; nothing for judged contexts."""
        starts, by_name = list[Start](), {c.id: c for c in self.game.contexts}
        for name, own in sets.items():
            exams = by_name[name].tests(self.how.tests, self.seed)
            text = write_tasks([(e.question, [r.text for r in e.rubrics]) for e in exams], self.game.notation)
            for skills, _ in itertools.product(own if exams else (), range(self.how.attempts)):
                starts.append(_given(len(starts), self.game.begin(name, reasoner=skills), text))
        if not starts:
            return {}
        width = max(len(r.rubrics) for c in by_name.values() for r in c.tests())
        game = self.game.variant(mode="key", tasks=self.how.tests, rubrics=max(width, self.game.rubrics), evolve=())
        found: dict[str, dict[str, Row]] = {}
        for episode in self._played(game, starts, {"reasoner": seats["reasoner"]}, file):
            facts = episode.outcome.facts
            own_ = found.setdefault(facts["context"], {})
            used = facts["skills"]["reasoner"]["before"]["hash"]
            row = own_.setdefault(used, {"choose": [], "score": [], "share": []})
            for number, task in enumerate(facts["tasks"]):  # one half is for the oracle's choice, the other scores
                row["score" if number % 2 else "choose"].append(task.get("solved"))
                if number % 2:
                    row["share"].append(task.get("share"))
        return found

    def _context(
        self, name: str, track: Track, answered: Mapping[str, Any], scored: Mapping[str, Row], shot: SkillSet | None
    ) -> Row:
        rows = [self._candidate(number, s, track.probes, answered, scored) for number, s in enumerate(track.reasoner)]
        allowed = rows if self.how.base else rows[1:]
        selected, level = select(allowed, self.how.tie)
        rng, count = stream("random-round", self.seed, name), len(rows) - 1
        tested = [row for row in rows if row["test"] is not None]
        best = max(tested, key=lambda row: (row["choose"], -row["round"])) if tested else None
        shot_row = None if shot is None else self._candidate(-1, shot, (), {}, scored)
        picks: dict[str, Row | None] = {
            "none": rows[0], "first": rows[min(1, count)], "last": rows[-1],
            "random": rows[1 + int(rng.integers(count))], "replay": selected, "oracle": best, "one_shot": shot_row,
        }  # fmt: skip
        return {
            "probes": [msgspec.to_builtins(p) for p in track.probes], "replay": rows, "rounds": track.rows,
            "selected": {"round": selected["round"], "hash": selected["hash"], "tie": level, "rule": self.how.tie},
            "controls": {
                key: {k: row[k] for k in ("round", "hash", "words", "test", "test_counted", "test_share")}
                for key, row in picks.items() if row is not None
            },
            "oracle_taken": None if best is None else selected["hash"] == best["hash"],
        }  # fmt: skip

    def _candidate(
        self, number: int, skills: SkillSet, probes: Sequence[Probe], answered: Mapping[str, Any],
        scored: Mapping[str, Row],
    ) -> Row:  # fmt: skip
        """A line of the replay table; a probe without a verdict in any repeat counts as not solved."""
        repeats = answered.get(skills.hash, [])
        solved = {"hard": list[float](), "easy": list[float]()}
        unknown = 0
        for i, probe in enumerate(probes):
            values = [row[i] for row in repeats]
            unknown += sum(v is None for v in values)
            solved[probe.kind].append(mean(values) or 0.0)
        rho = {kind: smoothed(values) for kind, values in solved.items()}
        own, asked = scored.get(skills.hash), len(repeats)
        row: Row = {"round": number, "hash": skills.hash, "words": skills.words, "repeats": asked, "unknown": unknown}
        row |= {f"rho_{kind}": value for kind, value in rho.items()} | {"product": rho["hard"] * rho["easy"]}
        row |= {f"solved_{kind}": values for kind, values in solved.items()}
        score, choose = ([] if own is None else own[key] for key in ("score", "choose"))
        counted = [v or 0 for v in score]
        row |= {"test": mean(score), "test_counted": mean(counted), "choose": mean(v or 0 for v in choose) or 0.0}
        return row | {"test_share": mean(own["share"]) if own is not None else None}


def _unique(sets: Iterable[SkillSet]) -> list[SkillSet]:
    return list({s.hash: s for s in sets}.values())


def _given(index: int, task: Any, text: str) -> Start:
    return Start(index, task, {"challenger_0": Action(text)}, "probes")


def _costs(path: Path) -> dict[str, dict[str, int]]:
    """Calls and tokens by role of the episodes in a file; moves that were given are not in it."""
    found: dict[str, dict[str, int]] = {}
    for episode in read_episodes(path) if path.exists() else ():
        given = any(e.kind == "given" for e in episode.events)
        for role, own in episode.outcome.facts["costs"].items():
            for key, value in own.items() if not (given and role == "challenger") else ():
                row = found.setdefault(role, {})
                row[key] = row.get(key, 0) + value
    return found


def _summed(contexts: Sequence[Row], seed: str) -> Row:
    """Means over contexts, and replay less each other control with a 95 % bootstrap interval over contexts."""
    means, gains = {}, {}
    for name in CONTROLS:
        own = [c["controls"][name] for c in contexts if name in c["controls"]]
        keys = ("test", "test_counted", "test_share", "words")
        means[name] = {key: mean(row[key] for row in own) for key in keys} if own else None
        pairs = [
            c["controls"]["replay"]["test_counted"] - c["controls"][name]["test_counted"]
            for c in contexts
            if name in c["controls"] and c["controls"][name]["test_counted"] is not None
        ]
        if name != "replay" and pairs:
            x = np.array(pairs)
            drawn = x[stream("skills-interval", seed, name).integers(len(x), size=(2000, len(x)))].mean(1)
            low, high = np.quantile(drawn, [0.025, 0.975])
            gains[name] = [float(x.mean()), float(low), float(high)]
    taken = [c["oracle_taken"] for c in contexts if c["oracle_taken"] is not None]
    ties = mean(len(c["selected"]["tie"]) > 1 for c in contexts)
    return {"controls": means, "replay_less": gains, "oracle_taken": mean(taken), "ties": ties}


def _verdict(found: Row) -> str:
    weights = _slept(found["consolidated"]) if "consolidated" in found else "No weights were trained"
    rounds = [c["selected"]["round"] for c in found["contexts"].values()]
    if found["oracle_taken"] is None:
        return f"{weights}; the contexts have no programs, so nothing is tested. Replay took {rounds}."
    told = ", ".join(f"{k} {v['test_counted']:.3f}" for k, v in found["controls"].items() if v is not None)
    return (
        f"{weights}. Private tests solved, mean over {len(rounds)} contexts: {told}; replay took the "
        f"oracle's skills in {found['oracle_taken']:.0%} of them; one run."
    )


def _slept(found: Row) -> str:
    told = ", ".join(f"{arm} {value:.3f}" for arm, value in found["arms"].items() if value is not None)
    names = ", ".join(found["taught"]) or "no context"
    return (
        f"A night put the skills of {names} into weights; private tests of these solved (text: with it): {told or '-'}"
    )


def _markdown(found: Row) -> str:
    head = "| context | round | words | rho_h | rho_e | product | taken | tests |"
    lines = [found["verdict"], "", head, "|" + " --- |" * 8]
    for name, its in found["contexts"].items():
        for row in its["replay"]:
            at, chosen = row["round"], its["selected"]
            mark = "yes" if at == chosen["round"] else "tie" if at in chosen["tie"] else ""
            test = "-" if row["test_counted"] is None else f"{row['test_counted']:.3f}"
            cells = [name, row["round"], row["words"], f"{row['rho_hard']:.3f}", f"{row['rho_easy']:.3f}"]
            lines.append("| " + " | ".join(map(str, [*cells, f"{row['product']:.3f}", mark, test])) + " |")
    return "\n".join(lines) + "\n"
