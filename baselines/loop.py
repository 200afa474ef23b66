"""The one runner: it trains, measures and reports every recipe, from wherever its folder stands.

A run is a list of phases; each plays rounds with a learner, asleep or not, and hands its weights on.  A killed run goes
on from its newest checkpoint and ends in the same weights.  ``conduct`` -> ``train`` -> ``walk`` (the phases) ->
``PolicyLearner.improve`` -> TRL's loop over steps, which asks ``PolicyLearner._rows`` for the rows of each.
"""

from __future__ import annotations

import gc
import importlib.util
import inspect
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch

from dream_envs import registry
from dream_envs.agents.engines.local import LocalAgent, keep_memory
from dream_envs.agents.engines.models import resolve, weights_hash
from dream_envs.agents.sleep.consolidation import SleepConsolidation
from dream_envs.agents.sleep.dreams import FamilyQuestions
from dream_envs.agents.sleep.experience import Buffer
from dream_envs.agents.training.collector import Collector, leads, own_device, processes
from dream_envs.agents.training.learner import COMPLETE, PolicyLearner, newest_checkpoint
from dream_envs.agents.training.settings import spec
from dream_envs.baselines import eval_set, recipe
from dream_envs.baselines.recipe import Options, Phase, Recipe
from dream_envs.baselines.watch import DiversityMonitor
from dream_envs.core import DreamEnvsError, Limits, hook
from dream_envs.curriculum import gates
from dream_envs.curriculum.curriculum import Curriculum
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs._adapter import build_reward, full_id
from dream_envs.metrics.retention import lessons
from dream_envs.metrics.rounds import roles_of
from dream_envs.play import as_agent
from dream_envs.progress import Progress
from dream_envs.rewards.algebra import per_role
from dream_envs.runs import Follower, Run, read_json, read_object, seal, unseal
from dream_envs.schema import SUMMARY, About, Evaluation, Summary, read_summary

#: Rows that the entropy of completions is measured on, a level.
ENTROPY_PROBLEMS = 24


class Findings(msgspec.Struct, frozen=True):
    """What the learner of a loop's own (``Recipe.learn``) has measured itself, from its method ``findings``.

    They stand in the summary in place of what the runner would measure; None: the runner measures it.
    """

    verdict: str
    evaluation: Evaluation | None = None
    training: dict[str, int] | None = None
    dreams: dict[str, Any] | None = None


class PhaseRun(msgspec.Struct, frozen=True):
    """Where a phase keeps its checkpoints, and which trackers TRL reports to; a learner asks no more of a run."""

    path: Path
    report_to: tuple[str, ...] = ()


Tick = Callable[[str, int, int, str], None]
Look = Callable[[int, LocalAgent], dict[str, Any]]


class Context:
    """A run under way: its folder, what it is measured with, and the newest weights of every name.

    Args:
        options: what was asked for.
        out: the run's folder.
        report_to: trackers that TRL reports to besides (``wandb``).
        device: where models run.
    """

    def __init__(self, options: Options, out: Path, report_to: tuple[str, ...] = (), device: str = "cpu") -> None:
        self.options, self.began, self.busy = options, time.perf_counter(), time.process_time()
        self.tick: Tick = Progress(quiet=True)
        self.loop, self.recipe = recipe.settled(options)
        self.world = processes(device)  # of several, the first writes and all others follow
        self.leads, device = leads(), own_device(device)
        if self.world and (self.recipe.nights is not None or self.recipe.learn is not None):
            raise DreamEnvsError(
                f"loop {self.loop.name!r} sleeps, in one process: without torchrun, or a variant that never sleeps"
            )
        self.base = LocalAgent(self.recipe.model, device=device, **self.recipe.engine)
        self.weights: dict[str, LocalAgent] = {}
        self.drawn = Counter[str]()
        self._index: Any = None
        self.rule = recipe.rule_of(self.recipe)
        self.family = self._family()
        self.support = _support(self.recipe.model)
        bare = self.game(())
        roles = tuple(r.name for r in bare.roles if r.name not in self.recipe.seats)
        chosen = self.recipe.eval
        family = self._made(chosen.family, {}) if chosen.family else self.family
        levels = chosen.levels or (tuple(family.levels) if family is not None else ())
        seats = {role: self.seat(who, bare) for role, who in self.recipe.seats.items()}
        reward = self.reward(bare, self.recipe.reward)
        self.eval = eval_set.make(
            chosen, bare, self.base, family=family, levels=levels, support=self.support, reward=reward, seats=seats,
            roles=roles,
        )  # fmt: skip
        if self.rule.engine == "vllm" and importlib.util.find_spec("vllm") is None:  # told before there is a folder
            raise DreamEnvsError(
                "engine='vllm': vllm is not installed; pip install 'dream-envs[vllm]', see docs/models.md"
            )
        self.run = (Run if self.leads else Follower)(out, self.config())
        self.place = PhaseRun(self.run.path, report_to)

    def config(self) -> dict[str, Any]:
        """What the run's folder is bound to: all that decides the result."""
        folder = Path(resolve(self.recipe.model))
        told = msgspec.to_builtins(msgspec.structs.replace(self.options, reward={}))
        learner = msgspec.to_builtins(self.rule)
        del learner["save_every"]  # decides where a resumed run starts again, not where it ends
        return {
            "command": "train",
            **told,
            "env": self.recipe.env,
            "family": self.family.name if self.family is not None else "",
            "learner": self.recipe.learner,
            "model": self.recipe.model,
            "steps": self.recipe.steps,
            "reward": {role: str(value) for role, value in {**self.recipe.reward, **self.options.reward}.items()},
            "engine": dict(self.recipe.engine),
            "mixture": msgspec.to_builtins(self.recipe.mixture),
            "rule": learner,
            "nights": msgspec.to_builtins(self.recipe.nights),
            "eval": msgspec.to_builtins(self.recipe.eval),
            "weights_hash": weights_hash(folder),
        }

    def _family(self) -> Any:
        """The family, made once, if the game takes one; else the game's own."""
        factory = registry.load("envs", full_id(self.recipe.env))
        if "family" not in inspect.signature(factory).parameters or not self.recipe.family:
            return getattr(self._built({}), "family", None)
        return self._made(self.recipe.family, self.recipe.family_args)

    def _made(self, name: str, args: Mapping[str, Any]) -> Any:
        """A family, in the notation of the preset and with the run's budget of tokens."""
        chat = self.recipe.preset == "lm" and "notation" in inspect.signature(registry.load("tasks", name)).parameters
        made = registry.create("tasks", name, **{**({"notation": "english"} if chat else {}), **args})
        if self.recipe.max_tokens is not None:  # the budget of games, evaluation, probes and dreams alike
            made.max_reply_tokens = self.recipe.max_tokens
        return made

    def _built(self, more: Mapping[str, Any]) -> Any:
        return registry.create("envs", full_id(self.recipe.env), **{**more, **self.recipe.args})

    def game(self, chosen: tuple[str, ...] | None = None, store: ChallengeStore | None = None) -> Any:
        """The game, with these gates (None: the recipe's) where it has one."""
        factory = registry.load("envs", full_id(self.recipe.env))
        takes, more = inspect.signature(factory).parameters, dict[str, Any]()
        if "family" in takes and self.family is not None:
            more["family"] = self.family
        if self.recipe.max_tokens is not None:
            more |= {n: self.recipe.max_tokens for n in ("reply_tokens", "proposal_tokens") if n in takes}
        names = self.recipe.gates if chosen is None else chosen
        if names and "gate" in takes:
            made = {
                "held_out": lambda: gates.held_out(self.eval.reserved()),
                "archive": lambda: gates.archive(store if store is not None else ()),
                "novel": lambda: gates.novel(self.novelty(), self.recipe.novelty),
            }
            more["gate"] = gates.every(*[made[name]() for name in names])
        return self._built(more)

    def novelty(self) -> Any:
        """The index of the problems that the run's curriculum has accepted."""
        from dream_envs.curriculum.novelty import NoveltyIndex

        if self._index is None:
            self._index = NoveltyIndex(min(self.recipe.novelty, 0.5))
        return self._index

    def agent(self, weights: str = "policy") -> LocalAgent:
        """The newest finished weights of this name, frozen; the base where no phase has trained them yet."""
        return self.weights.get(weights, self.base)

    def seat(self, who: str, game: Any) -> Any:
        """The agent of a recipe's seat: ``base``, a name of weights, or a scripted agent's name."""
        names = {"policy", *(phase.weights for phase in self.recipe.phases)}
        return self.base if who == "base" else self.agent(who) if who in names else as_agent(who, game)

    def reward(self, game: Any, by_role: Mapping[str, Any]) -> Any:
        """The reward of these expressions and models by role, with those that were asked for over them.

        Roles that only the game's own reward speaks of keep it where nothing else is given.
        """
        from dream_envs.rewards.expressions import parse

        asked = dict(self.options.reward)
        if not by_role and not asked:
            return build_reward(None, game)
        chosen = {**by_role, **asked}
        roles = ["", *(role.name for role in game.roles)]
        if unknown := [role for role in asked if role not in roles and role not in game.agents]:
            raise DreamEnvsError(registry.unknown(f"roles of {game.env_id}", unknown[0], roles[1:]))
        models = {role: parse(value) if isinstance(value, str) else value for role, value in chosen.items()}
        if "" in models:
            return models[""]
        if not by_role:
            own = build_reward(None, game)
            models = {**{role.name: own for role in game.roles}, **models}
        return per_role(models)

    def count(self, **samples: int) -> None:
        """Count completions that the phase that begins now has drawn beforehand, by role."""
        self.drawn.update(samples)

    def store(self) -> ChallengeStore:
        """The run's store of challenges."""
        return ChallengeStore(self.run.path / "challenges.jsonl" if self.leads else None)

    def note(self, name: str, data: Any) -> None:
        """Write a file of a phase's own into the run's folder."""
        self.run.write(name, data)


def _support(model: str) -> tuple[int, ...]:
    """The levels that a base says it was pre-trained on."""
    card = read_object(Path(resolve(model)) / "nano.json")
    return tuple(card.get("recipe", {}).get("support", {}).get("depths", ()))


def train(
    options: Options,
    out: Path,
    *,
    tick: Tick | None = None,
    save_every: int | None = None,
    report_to: tuple[str, ...] = (),
    device: str = "cpu",
) -> Summary:
    """Run a recipe in ``out`` to its end, from wherever it stands.

    Args:
        options: what is run.
        out: the run folder.
        tick: told of progress.
        save_every: steps between checkpoints; None is the learner's default.
        report_to: trackers that TRL reports to besides.
        device: where models run.

    Raises:
        KeyboardInterrupt: at Ctrl-C, after a checkpoint.
    """
    tick = tick or Progress(quiet=True)
    ctx = Context(options, Path(out), report_to, device)
    ctx.tick = tick
    where = ctx.run.path / "metrics.jsonl"
    of = (ctx.eval, ctx.base, where, ctx.recipe.steps, ctx.rule.rows.play_every)
    watch = DiversityMonitor.of(*of) if ctx.leads else None
    gc.freeze()  # every trainer collects garbage when it starts: what is there by now is none
    collector, learner = walk(ctx, watch, tick, save_every)
    if not ctx.leads:
        while (written := read_summary(ctx.run.path)) is None:  # a barrier would not wait for hours
            time.sleep(1.0)
        return written
    tick("measuring", 0, 1, "")
    summary = measure(ctx, collector, learner, watch)
    ctx.run.close()
    tick("measuring", 1, 1, "")
    return summary


def _together(world: Mapping[str, Any], said: bool = False) -> bool:
    """Wait for all processes; whether any of them said so."""
    return any(world["gather"]([said])) if world else said


def phases_of(chosen: Recipe) -> tuple[Phase, ...]:
    """The recipe's phases, or one of all steps."""
    return chosen.phases or (Phase("train", chosen.steps),)


def walk(
    ctx: Context,
    watch: DiversityMonitor | None,
    tick: Tick,
    save_every: int | None = None,
    look: Look | None = None,
    spent: Callable[[], bool] = lambda: False,
) -> tuple[Collector, Any]:
    """Every phase in turn; finished ones are only read.  Returns the last one's collector and learner.

    ``look``: called before each step with (step, agent), in place of the run's own measuring.  ``spent``: asked behind
    each round; once it is true, the phase under way ends there, and those behind it have no round.
    """
    phases, state, first = phases_of(ctx.recipe), None, 0
    for number, phase in enumerate(phases):
        place = ctx.run.path if len(phases) == 1 else ctx.run.path / "phases" / f"{number:02d}-{phase.name}"
        final = place / "checkpoints" / "final"
        done = unseal(final / COMPLETE)
        if done is not None and number + 1 < len(phases):
            state, first = done["collector"], first + phase.steps
            ctx.weights[phase.weights] = ctx.base.reloaded(final)
            continue
        collector = _collector(ctx, phase, number, first)
        seen = _shown(look, ctx, phase, first) if look else _looker(ctx, phase, collector, watch, first, tick)
        learner = _learner(ctx, phase, number, place, seen, save_every)
        if done is None and not spent():
            if state is not None and newest_checkpoint(place / "checkpoints", remove=False) is None:
                _carry(collector, state)  # else the files would be cut back to before what the checkpoint knows
            with _until_interrupted() as stopped:
                ctx_learner: Any = learner
                inner = getattr(ctx_learner, "learner", ctx_learner)
                inner.stop = lambda: _together(ctx.world, stopped() or spent())
                ctx_learner.improve(collector, phase.steps, PhaseRun(place, ctx.place.report_to))
                if _together(ctx.world, stopped()):
                    ctx.run.close()
                    raise KeyboardInterrupt
            if ctx.leads:
                learner.save(str(final))
                seal(final / COMPLETE, {"collector": collector.state()})  # the last file: the phase is over
        elif done is not None:
            learner.load(str(final))
            collector.restore(done["collector"])
        state = collector.state()
        collector.curriculum.store.close()
        ctx.weights[phase.weights] = learner.snapshot()
        first += phase.steps
    return collector, learner


def _collector(ctx: Context, phase: Phase, number: int, first: int) -> Collector:
    label = f"{ctx.recipe.label or ctx.loop.name}/{ctx.options.seed}"
    store = ctx.store()
    game = ctx.game(phase.gates, store)
    ctx.drawn.clear()
    rewards = ctx.recipe.reward if phase.reward is None else phase.reward
    if phase.prepare is not None:
        curriculum, own = phase.prepare(ctx, game, label)
        rewards = own or rewards
    else:
        seed = f"{label}/{number}" if ctx.recipe.phases else label
        index = ctx.novelty() if "novel" in ctx.recipe.gates else None
        curriculum = Curriculum(game, ctx.recipe.mixture, seed=seed, store=store, index=index)
    if curriculum.store is not store:
        store.close()
    names = {**ctx.recipe.seats, **(phase.seats or {}), **ctx.options.seats}
    seats = {role: ctx.seat(who, game) for role, who in names.items()}
    memory = Buffer(ctx.recipe.nights.capacity) if ctx.recipe.nights is not None else None
    reward = ctx.reward(game, rewards)
    collector = Collector(game, curriculum, reward, ctx.run, seats=seats, first=first, memory=memory, **ctx.world)
    collector.samples.update(ctx.drawn)
    return collector


def _learner(ctx: Context, phase: Phase, number: int, place: Path, look: Any, save_every: int | None) -> Any:
    rule = ctx.rule if save_every is None else msgspec.structs.replace(ctx.rule, save_every=save_every)
    single = len(phases_of(ctx.recipe)) == 1
    seed = ctx.options.seed if single else f"{ctx.options.seed}/{number}-{phase.name}"
    sources = ctx.recipe.sources()
    model = ctx.agent(phase.weights).snapshot()
    model.model.requires_grad_(True)
    if ctx.recipe.learn is not None:
        return ctx.recipe.learn(ctx, model, seed, place)
    make = spec(ctx.recipe.learner).make or PolicyLearner
    learner = make(model, settings=rule, sources=sources, seed=seed, evaluate=look)
    if ctx.recipe.nights is None:
        return learner
    nights, questions = ctx.recipe.nights, None
    if ctx.family is not None and hasattr(ctx.family, "parse") and hook(ctx.game(()), "solver_role"):
        questions = FamilyQuestions(ctx.family, [t.id for t in ctx.eval.reserved()])
    else:  # nothing says how to make up a question of this game
        nights = msgspec.structs.replace(nights, dreaming=None, alert=None)
    return SleepConsolidation(learner, questions, settings=nights, seed=seed, curve=ctx.eval.curve)


def _carry(collector: Collector, state: Mapping[str, Any]) -> None:
    """Go on where another collector of the run ended; what this one has sampled to begin with is counted on top.

    Seats and rewards are the phase's own, and begin anew.
    """
    own = {**collector.curriculum.state(), "store": state["curriculum"]["store"]}
    before = dict(collector.samples)
    collector.restore({**{k: v for k, v in state.items() if k not in ("seats", "reward")}, "curriculum": own})
    for role, count in before.items():
        collector.samples[role] = collector.samples.get(role, 0) + count


def _shown(look: Look, ctx: Context, phase: Phase, first: int) -> Look:
    """Told of the run's step, and of the weights that the run will deliver, whatever the phase trains."""

    def seen(step: int, agent: LocalAgent) -> dict[str, Any]:
        return look(first + step, agent if phase.weights == ctx.recipe.final else ctx.agent(ctx.recipe.final))

    return seen


def _looker(
    ctx: Context, phase: Phase, collector: Collector, watch: DiversityMonitor | None, first: int, tick: Tick
) -> Callable[[int, LocalAgent], dict[str, Any]]:
    shown = [""]

    def look(step: int, agent: LocalAgent) -> dict[str, Any]:
        step += first
        seen = agent if phase.weights == ctx.recipe.final else ctx.agent(ctx.recipe.final)
        found: dict[str, Any] = {"seconds": time.perf_counter() - ctx.began}
        found["processor_seconds"] = time.process_time() - ctx.busy  # since it was started or resumed
        if step % ctx.recipe.eval.every == 0:
            curve = ctx.eval.curve(seen)
            found |= {f"eval/{name}": value for name, value in curve.items()}
            newest = collector.curriculum.store.select(lambda e: e.challenge.author == "challenger", last=48)
            if ctx.eval.kind == "exact" and newest:
                found["curriculum/drift"] = eval_set.drift(ctx.base, [e.challenge for e in newest])
            some = list(curve.items())
            named = [(f"level {name}" if name.isdigit() else name, value) for name, value in some]
            shown[0] = ", ".join(f"{name}: {value:.2f}" for name, value in named[:: max(1, len(some) // 4)])
        if watch is not None and watch.due(step):
            found |= watch.look(step, seen)
        if ctx.recipe.phases:
            found["phase"] = phase.name
        tick("training", step, ctx.recipe.steps, shown[0])
        return found

    return look


def measure(ctx: Context, collector: Collector, learner: Any, watch: DiversityMonitor | None) -> Summary:
    """Write ``summary.json``: what the policy could do before and can do now, and what became of variety."""
    base, trained = ctx.base, ctx.agent(ctx.recipe.final)
    final = ctx.run.path / "checkpoints" / "final"
    if not final.is_dir():  # several phases: the run delivers one's weights
        trained.save(final)
    samples = {**collector.samples, "total": sum(collector.samples.values())}
    own: Findings | None = learner.findings() if hasattr(learner, "findings") else None
    if own is None or own.evaluation is None:
        found = ctx.eval.compare(ctx.eval.measure(base), ctx.eval.measure(trained), samples["total"])
    else:
        found = own.evaluation
    entropy = {}
    if ctx.eval.tasks:
        levels = [d for d in ctx.support if d in ctx.eval.levels] or list(ctx.eval.levels[:3])
        probe = [t for d in levels for t in ctx.eval.tasks["any", d][:ENTROPY_PROBLEMS]]
        limits = Limits(ctx.eval.family.max_reply_tokens)
        entropy = {n: eval_set.entropies(a, probe, limits) for n, a in (("base", base), ("trained", trained))}
    left = lessons(collector.newest)
    nights = [msgspec.to_builtins(n) for n in getattr(learner, "nights", ())]
    about = About(
        loop=ctx.options.loop,
        env=ctx.recipe.env,
        learner=ctx.recipe.learner,
        seed=ctx.options.seed,
        steps=ctx.recipe.steps,
        base=ctx.recipe.model,
        weights_hash=ctx.run.config["weights_hash"],
        trained_hash=weights_hash(final),
        seconds=round(time.perf_counter() - ctx.began, 1),
        family=ctx.run.config["family"],
        support=list(ctx.support),
    )
    summary = Summary(
        run=about,
        verdict=own.verdict if own else left["verdict"] if left else eval_set.verdict(found, samples["total"]),
        roles=roles_of(ctx.run.path, collector.game, collector.learns()),
        samples=samples,
        evaluation=found,
        entropy=entropy,
        diversity=watch.block(trained) if watch is not None else None,
        label_accuracy=collector.history[-1].label_accuracy if collector.history else None,
        nights=nights,
        retention=left,
        training=own.training if own and own.training is not None else trained_on(ctx.run.path, nights),
        dreams=own.dreams if own is not None else None,
    )
    ctx.run.write(SUMMARY, summary)
    return read_summary(ctx.run.path) or summary  # as it will be read: lists for tuples


def trained_on(folder: Path, nights: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Optimiser steps and completion tokens that a run trained on, by its own files; nights that were undone count."""
    config = (read_json(folder / "run.json") or {}).get("config", {})
    rows = [msgspec.json.decode(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    updates = config["rule"]["updates"]
    awake = config["steps"] * updates["minibatches"] * updates["epochs"] * (config["eval"]["kind"] != "none")
    asleep = config["nights"]["learning"]["steps"] * len(nights) if config["nights"] else 0
    tokens = sum(row.get("train/tokens", 0) for row in rows) + sum(n["tokens"] for n in nights)
    return {"steps": awake + asleep, "tokens": int(tokens)}


def conduct(
    options: Options,
    out: Path,
    *,
    resume: bool = False,
    threads: int = 1,
    quiet: bool = False,
    report_to: tuple[str, ...] = (),
    device: str = "cpu",
) -> Summary:
    """Train unless that is done, and write the run's report page.

    Args:
        options: what is run.
        out: the run folder.
        resume: go on in a folder that holds an unfinished run.
        threads: torch threads; 0 leaves torch's choice, which is far slower on a model this small.
        quiet: no progress.
        report_to: trackers that TRL reports to besides (``wandb``).
        device: where models run.

    Under ``torchrun`` all processes train as one, and the first writes the folder.

    Raises:
        DreamEnvsError: if the folder is taken.
    """
    out = Path(out)
    if (out / "run.json").exists() and not (out / SUMMARY).exists() and not resume:
        raise DreamEnvsError(f"{out} holds an unfinished run: add --resume to go on with it, or choose another --out")
    world = processes(device)  # now that each has looked for itself: whoever stops here would leave the others alone
    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_memory()
    found = read_summary(out)
    _together(world)  # nobody makes the folder before all have looked
    if found is None:
        with Progress(quiet or not leads()) as tick:
            found = train(options, out, tick=tick, report_to=report_to, device=device)
    else:
        Context(options, out, device=device).run.close()  # refuses other settings
    from dream_envs.report.page import write_report

    if leads():
        write_report(out)
    if world:
        from accelerate import PartialState

        PartialState().destroy_process_group()
    return found


def frontier_report(options: Options, summary: Summary, out: Path, cache: Path | None, how: Mapping[str, Any]) -> Any:
    """The mini Frontier Report of a finished run in ``out/frontier``; None where the suite has none of its problems."""
    if summary.evaluation is None or summary.evaluation.kind != "exact" or summary.retention is not None:
        return None
    from dream_envs.baselines.frontier import job
    from dream_envs.frontier.schema import read_report

    where, there = Path(out) / "frontier", False
    if (where / "report.html").is_file():
        old = read_report(where)
        hashes = (old.trained.weights_hash.partition("-")[0], old.base.weights_hash.partition("-")[0])
        there = hashes == (summary.run.trained_hash, summary.run.weights_hash)  # else it is of another run
    if not there:
        more = {name: how[name] for name in ("threads", "quiet", "device")}
        job.run(summary.run.base, str(out), where, cache, job.Options(), **more)
    return read_report(where)


@contextmanager
def _until_interrupted() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; pressed again, it interrupts at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)
        print("saving after this step; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)

    if before is signal.default_int_handler:  # else somebody has a handler of their own, or SIGINT is ignored
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
