"""Every data set of the package ``reasoning-gym`` (0.1.25) as one family: its generators, curricula and scorers.

``dataset``: one name, several separated by commas, or ``all``.  A problem is (data set, level, seed) and nothing else:
the rest is generated from that wherever it is needed.  Seeds are drawn from 2**32 for every problem; the package's own
are consecutive, so that its data sets of seed 1 and seed 2 are the same problems shifted by one.

Level k is level k of the data set's curriculum, with every attribute at that level or at its own highest one; a data
set without one has level 0 alone, its default configuration.  Levels behind the first that the package itself refuses
are left out, and those of ``_LEVELS``, which take it seconds or fail.  ``config`` pins fields of one data set's
configuration at every level.

The prompt is the package's question.  A reply is read as in ``english`` notation (``tasks.answers``): what stands in
``<answer>``, behind ``Answer:``, in a box or in the last fence, several lines too, or else all of it; a number may also
stand alone in the last sentence.  ``score_answer`` decides on that text: 1.0 counts, and unless ``strict`` 0.99 does,
which forgives rounding and a stray character in a long answer and no second answer.  Partial credit is no credit.
Where a text holds the package's answer and other words, it is refused: many scorers look for the answer inside of it.

Some scorers hand the reply to ``eval`` or to sympy's parser, which evaluates too: for them only texts of ``_ALLOWED``
go further.  ``LEFT_OUT`` names the data sets that cannot be used and why.

A proposal is one line of JSON, ``{"dataset": "leg_counting", "level": 0, "seed": 7}``.  Chance: a guesser gives one of
the answers of 16 other problems of the same data set and level, all alike; all are tried, so that it is exact.

Source: Stojanovski et al. 2025, "Reasoning Gym" (arXiv 2505.24760), Apache-2.0.
Version history: 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import re
from typing import Any

import numpy as np

from dream_envs.checks import one_of
from dream_envs.core import DreamEnvsError, Reject, Score, Task, content_hash
from dream_envs.registry import unknown
from dream_envs.seeds import stream
from dream_envs.tasks import answers
from dream_envs.tasks.answers import CHAT_TOKENS, NUMBER

#: Data sets of the package that are not offered, and why.
LEFT_OUT: dict[str, str] = {
    "boxnet": "comes without an answer, and its score is a share of boxes moved",
    "codeio": "its generator runs programs collected from the web inside of this process",
    "coin_flip": "its scorer gives 1.0 for the first character of the answer",
    "composite": "a mixture of others: name them, separated by commas",
    "game_of_life_halting": "its scorer gives 1.0 for every text, where the answer is a text",
    "intermediate_integration": "its scorer lets sympy simplify whatever the reply says, without a bound",
    "isomorphic_strings": "its problems depend on Python's hash seed",
    "knight_swap": "its problems depend on Python's hash seed",
    "polynomial_multiplication": "its problems depend on Python's hash seed",
    "propositional_logic": "its scorer reads some texts of two formulas as one",
    "puzzle24": "its scorer accepts any four numbers that make 24, whatever was asked",
    "ransom_note": "its problems depend on Python's hash seed",
    "rush_hour": "comes without an answer",
    "sokoban": "its generator takes minutes for some seeds",
    "word_ladder": "its problems depend on Python's hash seed",
}
#: How many levels are offered where the higher ones take seconds a problem, have no problems or endless answers.
_LEVELS = {
    "bf": 2, "countdown": 2, "futoshiki": 3, "game_of_life": 1, "jugs": 1, "n_queens": 4, "number_sequence": 3,
    "rubiks_cube": 1, "tower_of_hanoi": 2, "zebra_puzzles": 3,
}  # fmt: skip
#: Data sets that read files whenever they are made, and draw an item from ``Random(seed + index)`` alone: made once.
_READS = frozenset({"arc_agi", "figlet_font", "group_anagrams", "letter_jumble", "spell_backward", "rearc"})
#: Where the package keeps an answer if ``answer`` is empty.
_ANSWERS = {"graph_color": "possible_answer", "rubiks_cube": "example_correct_answer"}
_GRID = re.compile(r"[A-Z0-9_\s-]*")
#: A polynomial: letters that stand alone, and powers of letters only.
_POLYNOMIAL = re.compile(
    r"(?:\d{1,6}|(?<![a-zA-Z])[a-zA-Z](?!\s*[a-zA-Z(])(?:\s*\*\*\s*\d{1,2}(?!\d))?|[-+/() ]|\*(?!\*)){0,200}"
)
_ALLOWED: dict[str, re.Pattern[str]] = {
    "binary_matrix": _GRID,
    "countdown": re.compile(r"(?:[0-9+\-() ]|\*(?!\*)|/(?!/)){0,200}"),
    "n_queens": _GRID,
    "simple_integration": _POLYNOMIAL,
    "spiral_matrix": _GRID,
    "string_insertion": _GRID,
}
#: What counts as right unless ``strict``.
_NEARLY = 0.99
_SEEDS, _TRIES, _POOL, _LONGEST = 2**32, 16, 16, 4096


class ReasoningGym:
    """The family ``reasoning_gym``; see ``core.TaskFamily``.

    Args:
        dataset: a data set's name, several separated by commas, or ``all``.
        strict: True: only a score of exactly 1.0 counts; False: one of 0.99 or more.
        config: fields of the data set's configuration, pinned at every level; with one data set only.

    Raises:
        DreamEnvsError: where the package is not installed, or does not have such a data set or configuration.
    """

    name = "reasoning_gym"
    version = 1
    notation = "english"
    protocol: answers.Protocol = "chat"
    max_chars = 160
    max_reply_tokens = CHAT_TOKENS

    def __init__(self, dataset: str = "leg_counting", *, strict: bool = False, **config: Any) -> None:
        known = _known()
        if not isinstance(dataset, str):
            raise DreamEnvsError(f"dataset={dataset!r:.80}: a name, several separated by commas, or 'all'")
        names = [n.strip() for n in dataset.split(",")] if dataset != "all" else [n for n in known if n not in LEFT_OUT]
        for name in names:
            if name not in known:
                raise DreamEnvsError(unknown("data sets of reasoning-gym", name, known))
            if name in LEFT_OUT:
                raise DreamEnvsError(f"dataset={name!r} is left out: {LEFT_OUT[name]}; choose another")
        self.strict = one_of("strict", strict, (True, False))
        if config and len(names) > 1:
            raise DreamEnvsError(f"{next(iter(config))}=...: a configuration goes with one data set, not {len(names)}")
        self.datasets = tuple(dict.fromkeys(names))
        self._pinned = json.dumps(config, sort_keys=True, default=repr)
        self.config = config
        self._tops = {name: self._count(name) for name in self.datasets}
        self.levels = range(max(self._tops.values()))
        grader = f"{self.name}-{self.version}"
        self._right, self._wrong = Score(1.0, grader=grader), Score(0.0, grader=grader)
        self._remember()

    def _remember(self) -> None:
        self._made = functools.lru_cache(maxsize=64)(self._make_dataset)
        self._entry = functools.lru_cache(maxsize=4096)(self._make_entry)
        self._pool = functools.lru_cache(maxsize=256)(self._draw_pool)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_made", "_entry", "_pool")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._remember()

    def generate(self, rng: np.random.Generator, level: int) -> Task:
        """A problem of this level, of any of the data sets that have it, each alike."""
        whole = isinstance(level, int | np.integer) and not isinstance(level, bool)
        if not whole or level not in self.levels:
            raise DreamEnvsError(f"level={level!r}: {self.name} has 0 to {self.levels[-1]}")
        names = [name for name in self.datasets if level < self._tops[name]]
        name, found = names[int(rng.integers(len(names)))], Reject("execution")
        for _ in range(_TRIES):
            task = self._make(name, int(level), int(rng.integers(_SEEDS)), "generator")
            if isinstance(task, Task):
                return task
            found = task
        raise DreamEnvsError(f"reasoning_gym: no problem of {name}, level {level}, in {_TRIES} draws: {found.detail}")

    def parse(self, proposal: str) -> Task | Reject:
        """The problem of the last line that is a proposal; see the module's head."""
        return answers.proposal(proposal, self._parse_line)

    def _parse_line(self, line: str) -> Task | Reject:
        if not line:
            return Reject("empty")
        if len(line) > self.max_chars:
            return Reject("too_long", f"{len(line)} characters, at most {self.max_chars}")
        if not line.isascii() or not line.isprintable():
            return Reject("charset", "printable ASCII")
        try:
            asked = json.loads(line)
        except ValueError:
            asked = None
        wanted = {"dataset": str, "level": int, "seed": int}
        if not isinstance(asked, dict) or {k: type(v) for k, v in asked.items()} != wanted:
            return Reject("grammar", f"expected {self.proposal_form()}")
        name, level, seed = asked["dataset"], asked["level"], asked["seed"]
        if name not in self._tops:
            return Reject("limits", f"no data set {name!r:.40} here")
        if not 0 <= level < self._tops[name]:
            return Reject("limits", f"{name} has levels 0 to {self._tops[name] - 1}")
        if not 0 <= seed < _SEEDS:
            return Reject("limits", f"seeds run from 0 to {_SEEDS - 1}")
        return self._make(name, level, seed, "proposal")

    def read(self, task: Task, reply: str) -> str | None:
        """The text that ``score_answer`` is asked about; None if there is none."""
        said = self._candidates(task, reply)
        return next((text for text in said if self._scores(task, text)), said[0] if said else None)

    def verify(self, task: Task, reply: str) -> Score:
        """1 if the data set's own scorer says so of the answer that the reply states, 0 otherwise.

        Status ``error`` for a problem that is not this family's: another configuration, or version of the package.
        """
        if (entry := self._entry_of(task)) is None or entry["question"] != task.prompt:
            return Score(0.0, "error", detail="another configuration, or version of reasoning-gym, made this problem")
        return self._right if any(self._scores(task, text) for text in self._candidates(task, reply)) else self._wrong

    def gold(self, task: Task) -> str:
        """The package's answer."""
        return task.answer

    def chance(self, task: Task) -> float:
        """The share of the guesser's answers that are accepted."""
        pool = self._pool(task.meta["dataset"], task.level)
        return sum(self.verify(task, text).value for text in pool) / len(pool)

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """The answer of one of 16 other problems of the data set and level."""
        pool = self._pool(task.meta["dataset"], task.level)
        return pool[int(rng.integers(len(pool)))]

    def mutate(self, task: Task, rng: np.random.Generator) -> Task | None:
        """The same seed, and failing that a new one, at the next level of the data set; None at its highest."""
        name, seed = task.meta["dataset"], int(task.meta["seed"])
        if task.level + 1 >= self._tops[name]:
            return None
        for _ in range(_TRIES):
            harder = self._make(name, task.level + 1, seed, "mutation")
            if isinstance(harder, Task) and harder.prompt != task.prompt:
                return harder
            seed = int(rng.integers(_SEEDS))
        return None

    def features(self, task: Task) -> tuple[str, ...]:
        """The data set, its category in the package, and the level."""
        name = task.meta["dataset"]
        return f"dataset={name}", f"category={self._made(name, task.level).category}", f"level={task.level}"

    def as_proposal(self, task: Task) -> str:
        """The text that ``parse`` turns into this problem."""
        return json.dumps({"dataset": task.meta["dataset"], "level": task.level, "seed": task.meta["seed"]})

    def proposal_form(self) -> str:
        """The proposal grammar, by example."""
        return "'" + json.dumps({"dataset": self.datasets[0], "level": 0, "seed": 7}) + "'"

    def brief(self, level: int | None = None, reference: Task | None = None) -> str:
        """A paragraph that names the data sets and their levels."""
        offered = ", ".join(f"{name} (levels 0 to {top - 1})" for name, top in self._tops.items())
        wish = f" Choose level {level}." if level is not None else ""
        unlike = f" Do not repeat this one: {self.as_proposal(reference)}." if reference else ""
        return (
            f"Choose a problem of a generator: its data set, the level, and a seed from 0 to {_SEEDS - 1}. There are "
            f"{offered}.{wish}{unlike} Reply with one line of the form {self.proposal_form()} and nothing else."
        )

    def _make(self, name: str, level: int, seed: int, origin: str) -> Task | Reject:
        """The one way to a task, for generator, proposals and mutations alike."""
        entry = self._entry(name, level, seed)
        if isinstance(entry, Reject):
            return entry
        prompt, answer = entry["question"], _answer_of(name, entry)
        meta = {"dataset": name, "seed": seed}
        key = content_hash(self.name, name, prompt, answer)
        task = Task(family=self.name, level=level, prompt=prompt, answer=answer, meta=meta, origin=origin, id=key)
        if not answer or self.verify(task, answer).value < 1.0:
            return Reject("certificate", "the package's own answer is not accepted")
        return task

    def _candidates(self, task: Task, reply: str) -> list[str]:
        """The answer of a reply in the spellings that a scorer may know: as it stands, and without its markup."""
        text = answers.block(reply)
        said = [text, answers.bare(text), answers.bare(answers.plain(text))]
        if NUMBER.fullmatch(task.answer):
            keep = "," in task.answer
            found = answers.read(reply, NUMBER, task.prompt, tidy=lambda t: t if keep else t.replace(",", ""))
            said += [found] if found is not None else []
        if task.meta["dataset"] not in _ANSWERS:  # a second answer beside the right one is none
            spelled = {task.answer, answers.bare(task.answer), answers.bare(answers.plain(task.answer))}
            said = [each for each in said if not any(_beside(each, answer) for answer in spelled)]
        longest = max(_LONGEST, 2 * len(task.answer))
        return [each for each in dict.fromkeys(said) if each and len(each) <= longest]

    def _scores(self, task: Task, text: str) -> bool:
        name, entry = task.meta["dataset"], self._entry_of(task)
        allowed = _ALLOWED.get(name)
        if entry is None or (allowed is not None and not allowed.fullmatch(text)):
            return False
        try:
            with _silence():
                value = float(self._made(name, task.level).score_answer(text, entry))
        except Exception:  # scorers parse the text in a hundred ways, and few of them expect everything
            return False
        return value >= 1.0 if self.strict else value >= _NEARLY

    def _entry_of(self, task: Task) -> dict[str, Any] | None:
        name, seed = task.meta.get("dataset"), task.meta.get("seed")
        if name not in self._tops or not isinstance(seed, int) or not 0 <= task.level < self._tops[name]:
            return None
        entry = self._entry(name, task.level, seed)
        return None if isinstance(entry, Reject) else entry

    def _count(self, name: str) -> int:
        """How many levels a data set has; an error where it does not take the configuration."""
        for level in range(_levels(name)):
            try:
                self._settings(name, level, 0)
            except (AssertionError, ValueError, TypeError) as error:
                if not level:
                    told = str(error).partition("\n")[0] or type(error).__name__
                    raise DreamEnvsError(f"{name}, {self._pinned:.200}: {told}; see its configuration") from error
                return level
        return _levels(name)

    def _settings(self, name: str, level: int, seed: int) -> Any:
        from reasoning_gym import factory

        cls = factory.DATASETS[name][1]
        fields = [field.name for field in dataclasses.fields(cls)]
        for key in self.config:
            if key not in fields or key in ("seed", "size"):
                rest = [field for field in fields if field not in ("seed", "size")]
                raise DreamEnvsError(unknown(f"configuration of {name}", key, rest))
        if factory.has_curriculum(name):
            curriculum = factory.create_curriculum(name)
            curriculum.set_global_level(level)
            made = curriculum.generate_configuration({"seed": seed, "size": 1})
        else:
            made = cls(seed=seed, size=1)
        made = dataclasses.replace(made, **self.config)
        if hasattr(made, "validate"):
            made.validate()
        return made

    def _make_dataset(self, name: str, level: int) -> Any:
        from reasoning_gym import factory

        return factory.DATASETS[name][0](self._settings(name, level, 0))

    def _make_entry(self, name: str, level: int, seed: int) -> dict[str, Any] | Reject:
        from reasoning_gym import factory

        try:
            with _silence():
                if name not in _READS:
                    return factory.DATASETS[name][0](self._settings(name, level, seed))[0]
                made = self._made(name, level)
                made.seed = seed
                return made[0]
        except Exception as error:  # generators give up in ways of their own
            return Reject("execution", f"{type(error).__name__}: {str(error)[:80]!r}")

    def _draw_pool(self, name: str, level: int) -> tuple[str, ...]:
        rng, found = stream("reasoning_gym", "guesses", name, level), list[str]()
        for _ in range(_TRIES * _POOL):
            task = self._make(name, level, int(rng.integers(_SEEDS)), "generator")
            found += [task.answer] if isinstance(task, Task) else []
            if len(found) == _POOL:
                break
        return tuple(found)


def _silence() -> contextlib.redirect_stdout[io.StringIO]:
    """Some generators and scorers print, and standard output may be somebody's JSON."""
    return contextlib.redirect_stdout(io.StringIO())


def _beside(text: str, answer: str) -> bool:
    """Whether a text holds the answer and more words."""
    found = text.find(answer)
    rest = text[:found] + text[found + len(answer) :]
    return found >= 0 and re.search(r"[^\W_]", rest) is not None and not NUMBER.fullmatch(text)


def _known() -> list[str]:
    """The names of the package's data sets."""
    try:
        from reasoning_gym import factory
    except ModuleNotFoundError as error:
        raise DreamEnvsError(f"reasoning_gym needs {error.name!r}: pip install 'dream-envs[reasoning-gym]'") from error
    return sorted(factory.DATASETS)


def _levels(name: str) -> int:
    """How many levels a data set's curriculum has, 1 without one."""
    from reasoning_gym import factory

    if not factory.has_curriculum(name):
        return 1
    attributes = factory.create_curriculum(name).attributes.values()
    return min(_LEVELS.get(name, 99), max([len(attribute.levels) for attribute in attributes] or [1]))


def _answer_of(name: str, entry: dict[str, Any]) -> str:
    answer = entry["answer"] if name not in _ANSWERS else entry["metadata"][_ANSWERS[name]]
    return answer if isinstance(answer, str) else json.dumps(answer)
