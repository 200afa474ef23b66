"""The learner of the loop ``magpie``: it dreams, filters, trains copies on what is kept and on controls, and measures.

Everything that is finished is a file that a resumed run only reads: a round of dreams (``parts/round-NN.json``, with
the episodes), the rows (``dreams.jsonl``, ``dreams.json``), each copy's weights and what it was measured at
(``copies/NAME``, ``copies/NAME.json``).
"""

from __future__ import annotations

import gc
import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.eval_set import interval
from dream_envs.baselines.following import checks, followed
from dream_envs.baselines.loop import Findings
from dream_envs.core import Action, DreamEnvsError, Measure, Message, Progress, Request, encode
from dream_envs.curriculum.dreams import PRESETS, Dreamt, dreamt, sieve, statistics, unmeasured
from dream_envs.envs import dream_facts
from dream_envs.metrics.diversity import entropy
from dream_envs.play import read_episodes
from dream_envs.registry import named
from dream_envs.rewards.base import as_reward
from dream_envs.runs import read_json, write_json
from dream_envs.schema import Compared, Evaluation
from dream_envs.seeds import digest, stream

if TYPE_CHECKING:
    from dream_envs.baselines.loop import Context
    from dream_envs.baselines.loops.magpie import Settings

#: The copies: trained on what the filter kept, on as many valid dreams at random, and on as many of the same lengths.
COPIES = ("kept", "random", "length")
#: What is measured of every copy: its name, its range, and what it is.
MEASURES = {
    "loss": ("held-out loss", (0.0, np.inf), "nats a token of the base's replies to held-out dreams; lower is closer"),
    "follows": ("instructions followed", (0.0, 1.0), "share of programmatic checks that hold; higher is better"),
    "valid": ("valid dreams", (0.0, 1.0), "share of its own dreams that are instructions; higher is better"),
    "distance": ("distance of dreams", (0.0, 1.0), "of its own dreams to the nearest other; higher is more varied"),
    "distinct": (
        "distinct bigrams",
        (0.0, 1.0),
        "share of word pairs in its dreams that differ; higher is more varied",
    ),
    "openings": ("entropy of openings", (0.0, np.inf), "bits, of its dreams' first two words; higher is more varied"),
}
_QUALITY = "Judge the instruction below by itself: is it clear, specific and well put? Nobody has answered it yet."
_DIFFICULTY = "Judge the instruction below by itself: how hard is it to answer well? 0 is trivial, 10 needs an expert."
_HALVES = 400  # half-samples of an interval


class Measured(msgspec.Struct, frozen=True):
    """What one model was measured at.  ``loss``: by held-out dream; ``follows``: by check; ``dreams``: its own."""

    loss: list[float]
    follows: list[bool]
    dreams: list[str]
    valid: list[bool]
    rows: int = 0
    tokens: int = 0


class Dreamer:
    """An agent for every seat of ``Dreaming-v0``: dreams are sampled, replies are greedy; ``improve`` is the loop."""

    def __init__(self, ctx: Context, model: LocalAgent, seed: str, place: Path, settings: Settings) -> None:
        named("presets", settings.preset, PRESETS)
        self.ctx, self.place, self.chosen, self.seed = ctx, place, settings, f"magpie/{ctx.options.seed}"
        self.agent, self.stop = model, bool
        self._dreams = ctx.base.decoding(temperature=settings.temperature, top_p=settings.top_p)
        self._replies = ctx.base.decoding(temperature=0.0, top_p=1.0, min_p=0.0, top_k=0)

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Dreams at the loop's temperature, everything else greedily."""
        found: list[Action | None] = [None] * len(requests)
        for agent, user in ((self._dreams, True), (self._replies, False)):
            places = [i for i, request in enumerate(requests) if (request.writes == "user") == user]
            for i, action in zip(places, agent.act([requests[i] for i in places]), strict=True):
                found[i] = action
        return [action for action in found if action is not None]

    # ------------------------------------------------------------------------------------------------------- the loop

    def improve(self, collector: Any, budget: int, run: Any) -> Progress:
        """Dream, filter, train every copy for ``budget`` steps and measure it; the kept copy is what is delivered."""
        self._dream(collector)
        if self.stop():
            return Progress(0, 0)
        rows = self._rows()
        for number, name in enumerate(("base", *COPIES)):
            if self.stop():
                return Progress(0, 0)
            self.ctx.tick("training and measuring", number, len(COPIES) + 1, name)
            self._copy(name, rows, budget)
        self.load(str(self.place / "copies" / "kept"))
        return Progress(budget, sum(collector.samples.values()), {})

    def _dream(self, collector: Any) -> None:
        mixture = collector.curriculum.mixture.total
        rounds, parts = -(-self.chosen.dreams // mixture), self.place / "parts"
        parts.mkdir(parents=True, exist_ok=True)
        done = [n for n in range(rounds) if (parts / f"round-{n:02d}.json").is_file()]
        if done:
            collector.restore(read_json(parts / f"round-{done[-1]:02d}.json"))
        else:
            collector.begin()
        for number in range(len(done), rounds):
            if self.stop():
                return
            self.ctx.tick("dreaming", number, rounds, f"{number * mixture} dreams")
            collector.round(number, self)
            collector.log(number, {})
            write_json(parts / f"round-{number:02d}.json", collector.state())

    def _rows(self) -> list[Dreamt]:
        """Every dream, measured and sorted out; written once."""
        file, run = self.ctx.run.path / "dreams.jsonl", self.ctx.run
        if (run.path / "dreams.json").is_file():
            return [msgspec.json.decode(line, type=Dreamt) for line in file.read_bytes().splitlines()]
        episodes = sorted(read_episodes(run.path / "episodes.jsonl"), key=lambda e: e.index)
        rows = self._judged(dreamt(episodes), episodes)
        rows = self._held_out(rows)
        pool = [i for i, row in enumerate(rows) if not row.held_out]
        preset = PRESETS[self.chosen.preset]
        without = unmeasured([rows[i] for i in pool], preset)
        for i, why in zip(pool, sieve([rows[i] for i in pool], preset, without), strict=True):
            rows[i] = msgspec.structs.replace(rows[i], dropped=why)
        kept = sum(not rows[i].dropped for i in pool)
        told = {"model": self.ctx.recipe.model, "template": self._template(),
                "decoding": {"dreams": self._dreams.how, "replies": self._replies.how},
                "preset": self.chosen.preset, "rules": preset, "unmeasured": without, "kept": kept,
                "of": len(pool), "held_out": len(rows) - len(pool), **statistics(rows)}  # fmt: skip
        told["dropped"] = {
            why: sum(rows[i].dropped == why for i in pool) for why in dict.fromkeys(r.dropped for r in rows)
        }
        if kept < 2:
            raise DreamEnvsError(
                f"preset {self.chosen.preset!r} keeps {kept} of {len(pool)} dreams ({told['valid']} valid): "
                f"more --set dreams=N, or another preset ({', '.join(PRESETS)})"
            )
        file.write_bytes(b"".join(encode(row) + b"\n" for row in rows))
        run.write("dreams.json", told)  # the last file: the dreams are done
        return rows

    def _template(self) -> str:
        """What a dream goes on behind, as text."""
        game = self.ctx.game()
        begins = game.start(None, stream(self.seed))
        bare = self.ctx.base.encode(game.view(begins, game.turns(begins)[0].agent), "user")
        return str(self.ctx.base.tokenizer.decode(bare))

    def _judged(self, rows: list[Dreamt], episodes: Sequence[Any]) -> list[Dreamt]:
        """Rows with a judge's quality and difficulty in place of the heuristics, and a reward model's score."""
        if engine := self.chosen.judge:
            for name, words in (("quality", _QUALITY), ("difficulty", _DIFFICULTY)):
                model: Any = as_reward(
                    "judge", engine=self._replies if engine == "base" else engine, role="dreamer", every_turn=True,
                    criteria=words, max_tokens=64,
                )  # fmt: skip
                scores = {e.index: s.get("dreamer_0") for e, s in zip(episodes, model.score(episodes), strict=True)}
                for i, row in enumerate(rows):
                    score = scores[row.episode]
                    read = score is not None and score.status == "ok" and score.turns is not None
                    own = {k: v for k, v in row.measures.items() if k != name}
                    told = {name: score.turns[row.turn]} if score is not None and score.turns and read else {}
                    rows[i] = msgspec.structs.replace(row, measures=own | told)
        if folder := self.chosen.reward_model:
            from dream_envs.agents.engines.classifier import Classifier

            valid = [i for i, row in enumerate(rows) if not row.reject]
            talks: list[list[Message]] = [
                [*rows[i].messages, {"role": "assistant", "content": rows[i].reply}] for i in valid
            ]
            for i, logits in zip(valid, Classifier(folder, str(self.ctx.base.device)).logits(talks), strict=True):
                rows[i] = msgspec.structs.replace(rows[i], reward=None if logits is None else float(logits[0]))
        return rows

    def _held_out(self, rows: list[Dreamt]) -> list[Dreamt]:
        """A sixth of the valid dreams are kept to measure with, and every other dream with the same words."""
        valid = [i for i, row in enumerate(rows) if not row.reject]
        order = stream(self.seed, "held-out").permutation(len(valid))[: max(1, len(valid) // 6)]
        words = {" ".join(rows[valid[i]].text.casefold().split()) for i in order}
        return [
            msgspec.structs.replace(row, held_out=not row.reject and " ".join(row.text.casefold().split()) in words)
            for row in rows
        ]

    def _copy(self, name: str, rows: Sequence[Dreamt], steps: int) -> None:
        """Train a copy and measure it, where that is not done; ``base`` is measured alone."""
        copies = self.place / "copies"
        copies.mkdir(exist_ok=True)
        folder, told = copies / name, copies / f"{name}.json"
        if told.is_file():
            return
        chosen = self._sets(rows)[name] if name != "base" else []
        trained = dict[str, int]()
        if chosen:
            trained = self._train(chosen, self._sets(rows)["kept"], name, steps, folder)
        agent = self.ctx.base.reloaded(folder) if chosen else self.ctx.base
        found = self._measure(agent, [row for row in rows if row.held_out])
        write_json(told, msgspec.structs.replace(found, **trained))
        del agent
        gc.collect()

    def _sets(self, rows: Sequence[Dreamt]) -> dict[str, list[Dreamt]]:
        """The training set of each copy, all of one size.

        The length-matched control takes for each kept dream the valid one with the nearest length of reply (in
        characters), one that was not kept where there is one as near.
        """
        pool = [row for row in rows if not row.reject and not row.held_out]
        kept = [row for row in pool if not row.dropped]
        rng = stream(self.seed, "controls")
        order, left = [pool[i] for i in rng.permutation(len(pool))], list[Dreamt]()
        free = list(order)
        for row in kept:
            best = min(free, key=lambda r: (abs(len(r.reply) - len(row.reply)), not r.dropped))
            free.remove(best)
            left.append(best)
        return {"kept": kept, "random": order[: len(kept)], "length": left}

    def _train(self, chosen: list[Dreamt], kept: list[Dreamt], name: str, steps: int, folder: Path) -> dict[str, int]:
        """A copy's weights in ``folder``, and what it was trained on: as many reply tokens a step as the kept copy."""
        from dream_envs.agents.training.sft import epochs, fine_tune

        mean, own = (sum(row.tokens for row in some) / len(some) for some in (kept, chosen))
        batch = max(1, round(self.chosen.batch * mean / max(own, 1.0)))
        label = f"{self.seed}/{name}"
        order = epochs(len(chosen), steps * batch, label, "sft-order")
        if not folder.is_dir():
            part = folder.with_name(f"{name}.part")
            shutil.rmtree(part, ignore_errors=True)
            fine_tune(
                self.ctx.base, [(row.messages, row.reply) for row in chosen], steps=steps, lr=self.ctx.rule.lr,
                seed=label, batch=batch, lora_rank=self.ctx.rule.lora_rank or None, out=part,
                unfinished=[i for i, row in enumerate(chosen) if not row.finished],
            )  # fmt: skip
            part.rename(folder)
        return {"rows": len(order), "tokens": int(sum(chosen[i].tokens for i in order))}

    # -------------------------------------------------------------------------------------------------- what came of it

    def _measure(self, agent: LocalAgent, held: Sequence[Dreamt]) -> Measured:
        game = self.ctx.game()
        begins = game.start(None, stream(self.seed))
        (dreams,) = game.turns(begins)
        (answers,) = game.turns(game.apply(begins, {dreams.agent: Action("Is it so?")}))
        bare: dict[str, Any] = {"messages": game.view(begins, dreams.agent), "writes": dreams.writes}
        asked = checks(self.chosen.checks, self.seed)
        who: dict[str, Any] = {"agent": answers.agent, "role": answers.role, "limits": answers.limits, "seed": 0}
        replies = agent.decoding(temperature=0.0, top_p=1.0, min_p=0.0, top_k=0).act(
            [Request(messages=[{"role": "user", "content": c.prompt}], **who) for c in asked]
        )
        sampled = agent.decoding(temperature=self.chosen.temperature, top_p=self.chosen.top_p)
        who |= {"agent": dreams.agent, "role": dreams.role, "limits": dreams.limits}
        seeds = [digest(self.seed, "own dreams", i) for i in range(self.chosen.checks)]
        raw = sampled.act([Request(**{**who, **bare, "seed": seed}) for seed in seeds])
        clean = [dream_facts.sanitise(a.text, a.finish_reason, dreams.limits.max_chars) for a in raw]
        return Measured(
            _losses(agent, held), [followed(c, a.text) for c, a in zip(asked, replies, strict=True)],
            [c.text for c in clean], [c.kind not in dream_facts.REJECTS for c in clean],
        )  # fmt: skip

    def findings(self) -> Findings:
        """The summary's part: base and kept copy, the controls, and dreams to look at."""
        rows, told = self._rows(), read_json(self.ctx.run.path / "dreams.json")
        files = {name: self.place / "copies" / f"{name}.json" for name in ("base", *COPIES)}
        found = {name: msgspec.json.decode(file.read_bytes(), type=Measured) for name, file in files.items()}
        measures = {name: {key: _value(one, key) for key in MEASURES} for name, one in found.items()}
        gains = {
            other: {key: _gain(found["kept"], found[other], key) for key in MEASURES}
            for other in found
            if other != "kept"
        }
        compared = [
            Compared(
                label, measures["base"][key], measures["kept"][key],
                f"above the random control {_signed(gains['random'][key])}; {says}",
            )
            for key, (label, _, says) in MEASURES.items()
        ]  # fmt: skip
        shown = [row for row in rows if not row.held_out]
        order = stream(self.seed, "shown").permutation(len(shown))
        examples = [shown[i] for i in order if not shown[i].dropped][:4] + [
            shown[i] for i in order if shown[i].dropped
        ][:4]
        dreams = {
            **told, "copies": measures, "gains": gains,
            "trained": {name: {"rows": one.rows, "tokens": one.tokens} for name, one in found.items() if one.rows},
            "examples": [
                {"instruction": r.raw if r.reject else r.text, "reply": r.reply, "dropped": r.dropped} for r in examples
            ],
        }  # fmt: skip
        says = (
            f"{len(found['base'].loss)} held-out dreams, {self.chosen.checks} checks and as many dreams of each model"
        )
        steps = {"steps": self.ctx.recipe.steps, "tokens": found["kept"].tokens}
        return Findings(
            _verdict(told, measures, gains),
            Evaluation("play", says, measures=compared),
            steps,
            msgspec.to_builtins(dreams),
        )

    def save(self, path: str) -> None:
        """The kept copy as a Hugging Face folder."""
        self.agent.save(path)

    def load(self, path: str) -> None:
        """Take over the weights of a folder."""
        self.agent = self.ctx.base.reloaded(path)

    def snapshot(self) -> LocalAgent:
        """A frozen copy."""
        return self.agent.snapshot()


def _losses(agent: LocalAgent, held: Sequence[Dreamt]) -> list[float]:
    """Mean negative log-likelihood of a token of each reply, in nats; the end counts where the reply had one."""
    found = list[float]()
    for row in held:
        (logits,), (ids,) = agent.completion_logits([row.messages], [row.reply])
        count = len(ids) - (not row.finished)
        logits, ids = logits[:count].astype(np.float64), ids[:count]
        top = logits.max(-1)
        logp = logits[np.arange(count), ids] - top - np.log(np.exp(logits - top[:, None]).sum(-1))
        found.append(float(-logp.mean()) if count else 0.0)
    return found


def _set_level(key: str) -> Callable[[Sequence[str]], float] | None:
    """A measure of a set of dreams as a whole; None for one that is a mean over prompts."""

    def distinct(texts: Sequence[str]) -> float:
        pairs = [pair for text in texts for pair in itertools.pairwise(dream_facts.words_of(text))]
        return len(set(pairs)) / len(pairs) if pairs else 0.0

    def openings(texts: Sequence[str]) -> float:
        return entropy([" ".join(dream_facts.words_of(text)[:2]) for text in texts])

    def distance(texts: Sequence[str]) -> float:
        near = dream_facts.nearest(list(texts))
        return sum(near) / len(near) if near else 0.0

    return {"distinct": distinct, "openings": openings, "distance": distance}.get(key)


def _value(one: Measured, key: str) -> Measure:
    """A measure of one model with its 95 % interval over prompts."""
    _, span, _ = MEASURES[key]
    if (whole := _set_level(key)) is None:
        return interval(np.array(getattr(one, key), float), "magpie", key, span=span)
    return _halved(lambda some: whole([one.dreams[i] for i in some]), len(one.dreams), key, span)


def _gain(one: Measured, other: Measured, key: str) -> Measure:
    """The difference of two models on the same prompts and seeds."""
    if (whole := _set_level(key)) is None:
        values = np.array(getattr(one, key), float) - np.array(getattr(other, key), float)
        return interval(values, "magpie", key, span=(-np.inf, np.inf))
    return _halved(
        lambda some: whole([one.dreams[i] for i in some]) - whole([other.dreams[i] for i in some]), len(one.dreams), key
    )


def _halved(
    measure: Callable[[Sequence[int]], float], count: int, key: str, span: tuple[float, float] = (-np.inf, np.inf)
) -> Measure:
    """The measure of all, and an interval from random halves of the prompts.

    Drawing with replacement would repeat dreams and so lower every measure of variety; halves drawn without repeat none
    and, centred, have the spread of the whole.
    """
    value, half = measure(range(count)), max(1, count // 2)
    rng = stream("magpie", "halves", key, count)
    drawn = np.array([measure(rng.permutation(count)[:half].tolist()) for _ in range(_HALVES)])
    low, high = np.quantile(drawn - drawn.mean(), (0.025, 0.975))
    return Measure(value, float(max(span[0], value + low)), float(min(span[1], value + high)), count)


def _signed(m: Measure) -> str:
    ends = "" if m.low is None else f" [{m.low:+.3f}, {m.high:+.3f}]"
    return f"{m.value:+.3f}{ends}"


def _verdict(
    told: dict[str, Any], measures: dict[str, dict[str, Measure]], gains: dict[str, dict[str, Measure]]
) -> str:
    """One sentence by fixed rules."""

    def shown(other: str) -> str:
        better = [MEASURES[k][0] for k, sign in (("loss", -1), ("follows", 1)) if _beyond(gains[other][k], sign)]
        worse = [MEASURES[k][0] for k, sign in (("loss", 1), ("follows", -1)) if _beyond(gains[other][k], sign)]
        parts = [f"better in {' and '.join(better)}"] * bool(better) + [f"worse in {' and '.join(worse)}"] * bool(worse)
        return ", ".join(parts) or "no difference shown"

    before, after = (measures[name]["follows"].value for name in ("base", "kept"))
    return (
        f"{told['dreams']} dreams, {told['valid']} valid, {told['kept']} kept by {told['preset']!r}. Trained on these "
        f"it follows {after:.2f} of the checks instead of {before:.2f}. Against the base: {shown('base')}; against as "
        f"many random dreams: {shown('random')}; against dreams of the same lengths: {shown('length')}. One run."
    )


def _beyond(m: Measure, sign: int) -> bool:
    """Whether the whole interval lies on this side of 0."""
    return m.low is not None and m.high is not None and min(sign * m.low, sign * m.high) > 0
