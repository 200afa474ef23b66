"""Instructions: open-ended requests in English, which nobody can verify: replies to them are judged.

``verify`` abstains on every reply, so that whatever is paid comes from a judge: ``ChallengerSolver(judge="rubric")``,
``SelfJudge``, or the reward ``judge(...)``.  A proposal is the instruction itself, as a person would type it; what is
no request in plain English text is turned away by form alone.

Drawn ones are a kind of text, a subject and ``level`` wishes about it (``Write a short letter about a night train. Keep
it under 80 words.``).  ``file`` has instructions of your own instead, such as the kept dreams of ``magpie``.

Chance: none.  Source: our own; instructions from dreams are those of MAGPIE (arXiv 2406.08464).  Version history: 1.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import numpy as np

from dream_envs.checks import check
from dream_envs.core import DreamEnvsError, Reject, Score, Task
from dream_envs.tasks import answers

_FORMS = (
    "Write a short letter about {}.", "Explain {} to a child of eight.", "Write a poem about {}.",
    "Give three arguments for and three against {}.", "Tell a story that ends with {}.",
    "Describe {} to a blind person.",
    "Write a dialogue between two strangers about {}.", "Make a plan for a day that is all about {}.",
    "Write a museum label for {}.", "List what can go wrong with {}, and what to do about it.",
    "Compare {} with the sea.", "Write a speech against {}.", "Draft an advertisement for {}.",
    "Give advice to somebody who is afraid of {}.", "Invent a proverb about {} and explain it.",
    "Summarise what a newcomer has to know about {}.",
)  # fmt: skip
_SUBJECTS = (
    "a night train", "an empty house", "the first snow", "a broken clock", "keeping bees", "a long queue",
    "growing old",
    "a lost letter", "learning to swim", "a small harbour", "the price of bread", "a noisy neighbour", "an old bridge",
    "working at night", "a village school", "the colour green", "moving to another city", "a dog that will not listen",
    "repairing things", "a hot summer", "the last bus", "telling the truth", "a garden in winter", "a shared kitchen",
    "forgetting names", "the smell of rain", "a chess game", "a letter to oneself", "public libraries", "a power cut",
    "riding a bicycle", "a market on Sunday", "silence", "a borrowed coat", "maps", "the night before an exam",
)  # fmt: skip
_WISHES = (
    "Keep it under 80 words.", "Use no adjectives.", "End with a question.", "Write in the second person.",
    "Mention a number.", "Do not use the letter z.", "Begin with the word Yesterday.", "Use exactly two paragraphs.",
    "Make it funny.", "Make it fit for a newspaper.", "Name no person.", "Write as if it were the year 1900.",
)  # fmt: skip
_LINES, _LEAST_WORDS = 20, 2


class Instructions:
    """The family ``instructions``; see the module's head.

    Args:
        file: instructions to draw from: a text file with one a line, or ``.jsonl`` with a field ``instruction`` or
            ``prompt``; "": those of the module.  Level 1 is the only one then.
        max_chars: of a proposal, 40 to 20,000.
        max_level: wishes at most, 1 to 4, without a file.
    """

    name = "instructions"
    version = 1
    notation = "english"
    protocol = "chat"
    #: No reply can be verified: ``verify`` abstains.
    judged = True
    max_reply_tokens = answers.CHAT_TOKENS

    def __init__(self, file: str = "", *, max_chars: int = 600, max_level: int = 3) -> None:
        self.max_chars = check("max_chars", max_chars, 40, 20_000, whole=True)
        self.own = _read(str(Path(file).absolute()), self.max_chars) if file else ()
        self.levels = range(1, 2 if file else 1 + check("max_level", max_level, 1, 4, whole=True))

    def generate(self, rng: np.random.Generator, level: int) -> Task:
        """An instruction with ``level`` wishes, or one of the file's, each equally likely."""
        if level not in self.levels:
            raise DreamEnvsError(f"level={level}: instructions have {self.levels.start} to {self.levels.stop - 1}")
        if self.own:
            return self._task(self.own[int(rng.integers(len(self.own)))], 1, "generator")
        form, subject = (texts[int(rng.integers(len(texts)))] for texts in (_FORMS, _SUBJECTS))
        wishes = [_WISHES[i] for i in rng.permutation(len(_WISHES))[:level].tolist()]
        return self._task(" ".join([form.format(subject), *wishes]), level, "generator")

    def parse(self, proposal: str) -> Task | Reject:
        """The instruction that a reply proposes: all of it without closed reasoning, markup and blanks around it."""
        shown = answers.visible(proposal)
        if shown is None:
            return Reject("empty", "the reasoning was never closed")
        text = shown.strip()
        if not text:
            return Reject("empty")
        if len(text) > self.max_chars:
            return Reject("too_long", f"{len(text)} characters, at most {self.max_chars}")
        if stray := next((c for c in text if c != "\n" and not c.isprintable()), ""):
            return Reject("charset", f"{stray!r}")
        if re.search(r"<\|[^|>]*\|>|</?s>|\[/?INST\]", text):
            return Reject("charset", "markup of a chat template")
        words = re.findall(r"[A-Za-z]{2,}", text)
        if len(words) < _LEAST_WORDS or len("".join(words)) < 0.5 * len("".join(text.split())):
            return Reject("grammar", "no request in plain English")
        if text.count("\n") >= _LINES:
            return Reject("limits", f"{text.count(chr(10)) + 1} lines, at most {_LINES}")
        return self._task(text, min(self._wishes(text), self.levels[-1]), "proposal")

    def _task(self, text: str, level: int, origin: str) -> Task:
        return Task(family=self.name, level=level, prompt=text, answer="", origin=origin)

    @staticmethod
    def _wishes(text: str) -> int:
        """Sentences behind the first, one at least: what ``level`` is of an instruction that was not drawn here."""
        return max(1, len(re.findall(r"[.!?](?=\s+\S)", text)))

    def verify(self, task: Task, reply: str) -> Score:
        """Abstains."""
        return Score(0.0, "abstain", detail="open-ended: judged, not verified", grader=f"{self.name}-{self.version}")

    def gold(self, task: Task) -> str:
        """There is none; an example of a reply."""
        return "I would say this:"

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """What somebody says who did not read the instruction."""
        return "I do not know."

    def chance(self, task: Task) -> float:
        """0: nothing is accepted."""
        return 0.0

    def proposal_form(self) -> str:
        """An example."""
        return repr(f"{_FORMS[0].format(_SUBJECTS[0])} {_WISHES[0]}")

    def as_proposal(self, task: Task) -> str:
        """The instruction."""
        return task.prompt

    def brief(self, level: int | None = None, reference: Task | None = None) -> str:
        """What a challenger is told."""
        wish = f" Make {level} demands on how it is done." if level else ""
        other = f" Do not repeat this one: {reference.prompt}" if reference else ""
        return (
            "Write one instruction that a person might give to an assistant and that has no single right answer, of at "
            f"most {self.max_chars} characters.{wish}{other} Reply with the instruction and nothing else."
        )

    def mutate(self, task: Task, rng: np.random.Generator) -> Task | None:
        """The instruction with one wish more; None at the highest level, or where there is no room."""
        left = [wish for wish in _WISHES if wish not in task.prompt]
        if task.level >= self.levels[-1] or not left:
            return None
        text = f"{task.prompt} {left[int(rng.integers(len(left)))]}"
        return self._task(text, task.level + 1, "mutation") if len(text) <= self.max_chars else None

    def features(self, task: Task) -> tuple[str, ...]:
        """First word, number of words by powers of two, and wishes."""
        words = re.findall(r"[A-Za-z]+", task.prompt)
        size = max(0, len(words) - 1).bit_length()
        return (f"first={words[0].lower()[:20] if words else ''}", f"words<={2**size}", f"wishes={task.level}")


@functools.lru_cache(maxsize=16)
def _read(file: str, most: int) -> tuple[str, ...]:
    """The instructions of a file, each once.

    Raises:
        DreamEnvsError: where there is none, by file and line.
    """
    path = Path(file)
    if not path.is_file():
        raise DreamEnvsError(f"file={file!r:.200}: no such file")
    found = dict[str, None]()
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if path.suffix == ".jsonl" and text:
            try:
                row = json.loads(text)
                text = str(row.get("instruction") or row["prompt"]).strip()
            except (ValueError, KeyError, AttributeError, RecursionError):
                raise DreamEnvsError(f"{path.name}, line {number}: no field 'instruction' or 'prompt'") from None
        if len(text) > most:
            raise DreamEnvsError(f"{path.name}, line {number}: {len(text)} characters, max_chars is {most}")
        if text:
            found[text] = None
    if not found:
        raise DreamEnvsError(f"{path.name}: no instruction in it")
    return tuple(found)
