"""Models under report and the elicited base: agents made from the pre-registered methods of a suite.

The exact probabilities beside the estimates are teacher-forced here too, for suites with one accepted reply a problem.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from dream_envs.agents.elicitation import elicit
from dream_envs.agents.elicitation.cot_decoding import CotDecoding
from dream_envs.agents.elicitation.scaffolds import OneOfSeveral, Pieces, TwoTurns
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import resolve, weights_hash
from dream_envs.core import Agent, DreamEnvsError, Limits, Message, Request, Task, TaskFamily, content_hash
from dream_envs.curriculum.store import read_challenges
from dream_envs.frontier import exact as ex
from dream_envs.frontier.draws import Method, Unavailable
from dream_envs.frontier.methods import METHODS, MethodSpec
from dream_envs.frontier.protocol import ATOM_DRAWS, Measured, Tick
from dream_envs.frontier.sections import Exact
from dream_envs.frontier.suite import Problem, Suite
from dream_envs.frontier.verdict import DEVIATIONS
from dream_envs.play import ask
from dream_envs.schema import SUMMARY, read_summary
from dream_envs.seeds import digest, stream

SHOTS = 4
#: Problems a stratum that methods may look at.
DEVELOPMENT = 8
#: Samples of a stratum by which counts may miss what is exact on top, where next to none are expected.
SLACK = 3
#: Development problems that the mechanisms may look at; a stratum, for tuning on one's own right samples.
SOLVABLE, OWN = 48, 64


class Model(msgspec.Struct):
    """A model under report."""

    name: str  # for the reader
    identity: str  # what its draws are kept under: a hash of the weights
    agent: Agent  # what is queried
    run: Path | None = None  # the run that trained it
    met: tuple[Task, ...] | None = None  # problems that it met in training; None: there is no record
    unrecorded: str = ""  # why a run's record is none
    began: tuple[str, str] | None = None  # name and weights hash of the base that its run began from
    spent: tuple[int, int] | None = None  # optimiser steps and trained tokens of its run
    given: int = 0  # right answers that it was trained on without having found them, by its record
    wrap: Callable[[Agent], Agent] | None = None  # put around the agent of every method
    # makes the agent of a method that workers answer for (``spread``); given the answers, one that stops early
    remote: Callable[[MethodSpec, Callable[[], dict[str, str]] | None], Agent] | None = None
    shares: int = 1  # how many answer at once

    @property
    def engine(self) -> LocalAgent:
        """The agent as a local engine."""
        if not isinstance(self.agent, LocalAgent):
            raise DreamEnvsError(f"{self.name!r} is no local model: only plain methods can be asked of it")
        return self.agent


def load_model(name: str, device: str = "cpu") -> Model:
    """A model by its name, its folder, or the folder of a run that trained it."""
    run = Path(name)
    if (run / "run.json").is_file():
        folder = run / "checkpoints" / "final"
        if not (folder / "model.safetensors").is_file():
            end = "let it end first (dream-envs dream --resume)"
            raise DreamEnvsError(f"{name} is a run without checkpoints/final: {end}")
        agent = _agent(str(folder), device)
        return Model(name, identity_of(folder), agent, run, **record_of(run, weights_hash(folder)))
    folder, agent = Path(resolve(name)), _agent(name, device)
    identity = identity_of(folder) if (folder / "model.safetensors").is_file() else _fingerprint(agent)
    return Model(name, identity, agent)


def _agent(name: str, device: str) -> LocalAgent:
    try:
        agent = LocalAgent(name, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's ways to say that there is no such device
        first = str(error).strip().splitlines()[0]
        raise DreamEnvsError(f"device={device!r}: {first}; cpu, or cuda where torch finds one") from error
    if not getattr(agent.tokenizer, "chat_template", None):
        raise DreamEnvsError(f"model {name!r} has no chat template: give one that has, or add chat_template.jinja")
    try:
        agent.encode([{"role": "user", "content": "a"}])
    except Exception as error:  # whatever a template raises
        raise DreamEnvsError(f"model {name!r}: its chat template fails ({error}); mend chat_template.jinja") from error
    return agent


def same_weights(base: Model, trained: Model) -> bool:
    """Whether both are local models of equal weights, whatever files they came from."""
    if not (isinstance(base.agent, LocalAgent) and isinstance(trained.agent, LocalAgent)):
        return False
    one, other = base.engine.model.state_dict(), trained.engine.model.state_dict()
    return one.keys() == other.keys() and all(
        v.shape == other[k].shape and bool(torch.equal(v, other[k])) for k, v in one.items()
    )


def differences(suite: Suite, problems: Sequence[Problem], base: Model, trained: Model) -> list[str]:
    """What decides a reply besides the weights and is not the same for both, in words for the verdict.

    Files are compared where they speak for themselves; how text becomes tokens and tokens text is compared as it is
    done, on every problem.
    """
    if not (isinstance(base.agent, LocalAgent) and isinstance(trained.agent, LocalAgent)):
        return []
    one, other = (_beside_weights(m.agent) for m in (base, trained) if isinstance(m.agent, LocalAgent))
    found = [f"{what} differ" + _sides(one[what], other[what]) for what in one if one[what] != other[what]]
    before, after = (m.engine.model.config.to_dict() for m in (base, trained))
    for key in sorted({*before, *after} - _BOOKKEEPING):
        if (a := before.get(key)) != (b := after.get(key)):
            found.append(f"configuration differs: {key}" + _sides(a, b))
    if one["tokenizers"] == other["tokenizers"]:
        seen = [_as_tokens(m.engine, suite, problems) for m in (base, trained)]
        if changed := sum(a != b for a, b in zip(*seen, strict=True)):
            found.append(f"{changed} of {len(problems)} problems are other tokens, or other text, for each model")
    return found


#: Of a model's configuration, what says nothing of how it computes.
_BOOKKEEPING = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}


def _sides(one: Any, other: Any) -> str:
    """Both values where they are short."""
    said = f" (base {one}, trained {other})"
    return said if len(said) < 160 else ""


def _as_tokens(engine: LocalAgent, suite: Suite, problems: Sequence[Problem]) -> list[Any]:
    answers = [engine.completion(suite.written(p.task.answer)) for p in problems]
    prompts = [engine.encode(suite.messages(p.task)) for p in problems]
    return list(zip(prompts, answers, engine.decode(answers), strict=True))


def _beside_weights(agent: LocalAgent) -> dict[str, Any]:
    model, tokenizer = agent.model, agent.tokenizer
    size = sum(p.numel() for p in model.parameters())
    return {
        "architectures": f"{type(model).__name__} of {size:,} parameters",
        "stop tokens": sorted(agent.ends),
        "tokenizers": tokenizer.get_vocab(),
        "chat templates": tokenizer.chat_template,
    }


def weights_of(model: Model) -> str:
    """A hash of the loaded weights in bfloat16, whatever files they came from; the identity of another agent."""
    if not isinstance(model.agent, LocalAgent):
        return model.identity
    return _hash(model.agent, lambda value: value.to(torch.bfloat16).contiguous().view(torch.int16))


def _hash(agent: LocalAgent, bits: Callable[[torch.Tensor], torch.Tensor]) -> str:
    total = hashlib.sha256()
    for key, value in sorted(agent.model.state_dict().items()):
        total.update(key.encode() + bits(value.detach().cpu()).numpy().tobytes())
    return total.hexdigest()[:16]


def identity_of(folder: Path) -> str:
    """16 hex digits of the weights, then 8 of what else decides a reply: configuration, tokeniser, chat template."""
    rest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jinja", ".model", ".txt") and path.name != "nano.json":
            rest.update(path.name.encode() + path.read_bytes())
    return f"{weights_hash(folder)}-{rest.hexdigest()[:8]}"


def _fingerprint(agent: LocalAgent) -> str:
    """As ``identity_of``, of what was loaded: for models that are several files or come from a hub's cache."""
    beside = repr(sorted(_beside_weights(agent).items())) + agent.model.config.to_json_string()
    return f"{_hash(agent, torch.Tensor.contiguous)}-{hashlib.sha256(beside.encode()).hexdigest()[:8]}"


def record_of(run: Path, weights: str) -> dict[str, Any]:
    """What a run's files say of its training, as fields of ``Model``; ``unrecorded`` where they are no sound record."""
    summary, path = read_summary(run), run / "challenges.jsonl"
    if summary is None:
        return {"unrecorded": f"{run} has no summary.json"}
    about, spent = summary.run, summary.training
    found: dict[str, Any] = {"began": (about.base, about.weights_hash)}
    if about.trained_hash != weights:
        return {**found, "unrecorded": f"{run / SUMMARY} speaks of other weights than those of checkpoints/final"}
    met = tuple(read_challenges(path)) if path.is_file() else ()
    if any(task.id != content_hash(task.family, task.prompt, task.answer) for task in met):
        return {**found, "unrecorded": f"{path} holds problems under other ids than their own"}
    if not met:
        return {**found, "unrecorded": f"{path} names no problem that it met"}
    more = {"spent": (spent["steps"], spent["tokens"])} if spent else {}
    return {**found, **more, "met": met, "given": spent.get("given", 0)}


class _Late:
    """An agent that is made when it is first queried: where all its draws are in the cache it never is."""

    def __init__(self, make: Callable[[], Agent]) -> None:
        self._make = functools.cache(make)

    def act(self, requests: Sequence[Any]) -> Any:
        return self._make().act(requests)


class Elicited:
    """A model of a suite by its elicitation methods; ``tick`` is called when one takes its time."""

    def __init__(self, suite: Suite, model: Model, tick: Tick | None = None) -> None:
        self.suite, self.model, self.tick = suite, model, tick
        self.dev = suite.problems("elicitation", DEVELOPMENT)
        self.answers: dict[str, str] = {}  # by prompt, of the problems that are drawn
        self.spent: tuple[int, int] | None = None  # optimiser steps and tokens of the run that is measured
        self._own: dict[str, str] = {}  # by development problem, the model's own right reply
        self._forms = {"forced": suite.form, "given": suite.fixed}

    def shown(self, family: TaskFamily) -> list[tuple[Task, str]]:
        """Easy development problems of a family with a reply to each, for the methods that show some.

        Where replies reason it is the base's own, of problems that it was right on if there are enough; else the
        answer.
        """
        mine = [p.task for p in self.dev if self.suite.strata[p.stratum].family.name == family.name]
        mine = sorted(mine, key=lambda t: t.level)[: 4 * SHOTS]
        order = stream("frontier-shots", self.suite.name, family.name).permutation(len(mine))
        pairs = [(mine[i], self._worked(mine[i], family) if self.suite.final_field else "") for i in order]
        pairs.sort(key=lambda pair: not pair[1])
        return [(t, reply or self.suite.written(t.answer)) for t, reply in pairs[:SHOTS]]

    def _worked(self, task: Task, family: TaskFamily) -> str:
        """The shortest right reply of the model itself to a development problem; "" if it has none."""
        if task.id not in self._own:
            limits = Limits(max_tokens=self.suite.max_tokens or family.max_reply_tokens)
            one = Request(messages=self.suite.messages(task), agent="solver_0", role="solver", seed=0, limits=limits)
            seeds = [digest("frontier-shots", self.suite.name, task.id, i) for i in range(SHOTS)]
            actions = ask(self.model.agent, [msgspec.structs.replace(one, seed=seed) for seed in seeds])
            right = [a.text for a in actions if self._grade(family, task, a.text)]
            self._own[task.id] = min(right, key=len, default="")
        return self._own[task.id]

    def method(self, spec: MethodSpec) -> Method:
        """This method, ready to sample."""
        families = {s.family.name: s.family for s in self.suite.strata}
        shots = functools.cache(lambda name: self.shown(families[name]) if spec.shots else [])

        def messages(problem: Problem) -> list[Message]:
            return spec.messages(self.suite, problem.task, shots(self.suite.strata[problem.stratum].family.name))

        def right(problem: Problem, text: str) -> bool:
            return self._grade(self.suite.strata[problem.stratum].family, problem.task, text)

        wrap = self.model.wrap or (lambda agent: agent)
        agent = _Late(lambda: self._mechanism(spec)) if spec.how == "mechanism" else wrap(self._agent(spec))
        quick = self._quick(agent, spec)
        if self.model.remote is not None and spec.how != "mechanism":
            quick = None if quick is None else self.model.remote(spec, lambda: self.answers)
            agent = self.model.remote(spec, None)
        key = f"{spec.name}@{self.spent}" if hasattr(elicit.MECHANISMS.get(spec.name), "matched") else ""
        free = spec.how not in ("forced", "given")
        reasons = self.suite.final_field
        limit = self.suite.limit
        return Method(spec.name, agent, messages, right, lambda p: limit(p.stratum), quick, key, free, reasons)

    def _mechanism(self, spec: MethodSpec) -> Agent:
        if self.tick:
            self.tick(f"making {spec.name}", 0, 1)
        family, made_by = self.suite.strata[0].family, elicit.MECHANISMS[spec.name]
        matched: Any = getattr(made_by, "matched", None)
        if matched is not None and self.spent is not None:
            made_by = matched(*self.spent)
        try:
            made = made_by.make(self.model.engine, self._dev(matched is None), family, f"elicit/{spec.name}")
        except DreamEnvsError as error:
            raise Unavailable(str(error)) from error
        return self._quick(made, spec) or made

    def _grade(self, family: TaskFamily, task: Task, text: str) -> bool:
        chat = getattr(family, "protocol", "strict") == "chat"  # its verifier reads the answer out by itself
        return family.verify(task, text if chat else self.suite.reply(text)).value == 1.0

    def unapplied(self, spec: MethodSpec) -> str:
        """Why this engine cannot do what the method says; "" if it can.  Nothing is asked of it in another way."""
        if isinstance(self.model.agent, LocalAgent) or spec.how in ("two_turns", "pieces", "majority"):
            return ""  # a scaffold is more than the temperature of its calls
        changes = (spec.temperature, spec.top_p, spec.min_p) != (1.0, 1.0, 0.0)
        if spec.how != "sample" or (changes and not hasattr(self.model.agent, "decoding")):
            return f"{type(self.model.agent).__name__} does not take its decoding"
        return ""

    def _agent(self, spec: MethodSpec) -> Agent:
        agent: Any = self.model.agent
        if hasattr(agent, "decoding"):
            agent = agent.decoding(temperature=spec.temperature, top_p=spec.top_p, min_p=spec.min_p)
        if spec.how in self._forms:
            if (form := self._forms[spec.how]) is None:
                raise DreamEnvsError(
                    f"method {spec.name!r}: suite {self.suite.name!r} has no form to force; leave it out"
                )
            cached = functools.lru_cache(maxsize=4096)(form)
            return agent.constrained(lambda request: cached(request.messages[-1]["content"]))
        if spec.how == "power":
            return OneOfSeveral(agent, spec.size)
        if spec.how == "cot_decoding":
            return CotDecoding(agent, k=ex.BRANCHES)
        if spec.how == "two_turns":
            return TwoTurns(agent, spec.followup)
        if spec.how == "majority":
            return OneOfSeveral(agent, spec.size, self.suite.reply)
        if spec.how == "pieces":
            families = list({id(s.family): s.family for s in self.suite.strata}.values())
            return Pieces(agent, families, spec.size, self.suite.instruction, self.suite.reply, self.suite.written)
        return agent

    def _quick(self, agent: Agent, spec: MethodSpec) -> Agent | None:
        if not self.suite.one_reply or not isinstance(agent, (LocalAgent, CotDecoding)):
            return None
        return agent.stopping(lambda request: self.answers[request.messages[-1]["content"].removesuffix(spec.suffix)])

    def _dev(self, easiest: bool) -> list[Task]:
        """Development problems of the first family for mechanisms: the easiest, or all but those of new facts."""
        strata, source = self.suite.strata, self.dev if easiest else self.suite.problems("own-samples", OWN)
        kept = [p.task for p in source if easiest or strata[p.stratum].kind != "new facts"]
        mine = [t for t in sorted(kept, key=lambda t: t.level) if t.family == strata[0].family.name]
        return mine[:SOLVABLE] if easiest else mine


def contradicted(suite: Suite, found: Measured, base: Model, trained: Model) -> str:
    """How either model's plain samples contradict its exact probabilities, in a line; "" where they agree or unknown.

    A reply that is read otherwise than its tokens say (a tokenizer that writes answers, say) shows here, whichever
    methods the base was elicited with.
    """
    for side, model in (("base", base), ("trained", trained)):
        shares = found.panel[side].plain
        if shares is None or not _known(suite, found.problems, model):
            continue
        p = np.exp(by_method(suite, found.problems, model, [METHODS["plain"]])[0])
        strata = np.array([problem.stratum for problem in found.problems])
        for i in np.unique(strata):  # each by itself: answers to a few problems are lost in the sum of all
            own, said = p[strata == i], shares[strata == i]
            sd = float(np.sqrt((ATOM_DRAWS * own * (1 - own)).sum()))
            if ATOM_DRAWS * abs(said.sum() - own.sum()) > DEVIATIONS * sd + SLACK:
                return (
                    f"the {side} model is right in {said.mean():.1%} of plain samples of {suite.strata[i].name} and in "
                    f"{own.mean():.1%} by exact probabilities"
                )
    return ""


def _known(suite: Suite, problems: Sequence[Problem], model: Model) -> bool:
    """Whether each problem has one accepted completion whose probability can be computed."""
    families = [suite.strata[p.stratum].family for p in problems]
    compact = all(f.name == "composition" and f.notation == "compact" for f in families)
    return compact and isinstance(model.agent, LocalAgent) and model.wrap is None and suite.form is not None


def exact_sources(suite: Suite, found: Measured, base: Model, trained: Model) -> Exact | None:
    """Exact log-probabilities where each problem has one accepted completion (compact Composition); None elsewhere."""
    specs, mine = [METHODS[name] for name in found.turns], METHODS[found.configurations["trained"]]
    problems = found.problems
    if not all(_known(suite, problems, m) for m in (base, trained)) or not all(map(ex.has_exact, [*specs, mine])):
        return None
    before, after = ({d: np.zeros(len(problems)) for d in ex.DECODERS} for _ in range(2))
    for depth in sorted({p.task.level for p in problems}):
        at = [i for i, p in enumerate(problems) if p.task.level == depth]
        for model, table in ((base, before), (trained, after)):
            grammars = _grammars(suite.form, [problems[i] for i in at], model.engine)
            for d, log_p in ex.exact(model.engine, [problems[i].task for i in at], grammars).items():
                table[d][at] = log_p
    configured = by_method(suite, problems, trained, [mine])[0]
    return Exact(base=before, trained=after, methods=by_method(suite, problems, base, specs), configured=configured)


def _grammars(
    form_of: Callable[[str], list[list[str]]] | None, problems: Sequence[Problem], engine: LocalAgent
) -> list[ex.Grammar]:
    """Each problem's form in token ids; equal forms are looked up once."""
    assert form_of is not None
    token = functools.cache(engine.token)

    @functools.cache
    def made(form: tuple[tuple[str, ...], ...]) -> ex.Grammar:
        allowed = [[token(text) for text in texts] for texts in form]
        return ex.Grammar([*allowed, [engine.end]], [i % 2 == 1 for i in range(len(form))] + [False])

    return [made(tuple(map(tuple, form_of(p.task.prompt)))) for p in problems]


def by_method(suite: Suite, problems: Sequence[Problem], model: Model, specs: Sequence[MethodSpec]) -> np.ndarray:
    """``float64[A, N]``: log-probability of one draw of each method."""
    elicited, engine = Elicited(suite, model), model.engine
    grammars = {how: _grammars(form, problems, engine) for how, form in (("", suite.form), ("given", suite.fixed))}
    rows, read = [], dict[str, Any]()
    for spec in specs:
        prompts = [elicited.method(spec).messages(p) for p in problems]
        if (key := str(prompts)) not in read:  # most methods differ in how they sample, not in what they ask
            read[key] = engine.completion_logits(prompts, [p.task.answer for p in problems])
        logits, ids = read[key]
        own = grammars["given" if spec.how == "given" else ""]
        rows.append([ex.method_log_probability(spec, x, y, g) for x, y, g in zip(logits, ids, own, strict=True)])
    return np.array(rows)
