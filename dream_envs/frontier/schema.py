"""``frontier.json`` of a Frontier Report (kind ``frontier``, schema 4): what the job writes and every renderer reads.

Success rates and coverages are shares of problems, 0 to 1; gains, losses and the E(k) curve are percentage points.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from dream_envs.core import DreamEnvsError

#: JSON has no NaN; what no axis can hold is refused as well.
Number = Annotated[float, Meta(ge=-1e12, le=1e12)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
#: Value, low, high of a 95 % interval; the ends are None where they are not determined.
Estimate = tuple[Number, Number | None, Number | None]
#: Value, low, high of a 95 % interval that is always determined.
Interval = tuple[Number, Number, Number]
#: Right completions, out of samples.
Right = tuple[Count, Count]


T = TypeVar("T")


class ModelInfo(msgspec.Struct, frozen=True):
    """A model under report; ``run`` is the training run's folder."""

    name: str
    weights_hash: str = ""
    run: str | None = None


class Reach(msgspec.Struct, frozen=True):
    """Shares of a stratum's problems that are solved."""

    any: Number | None  # in the panel's k samples
    greedy: Number | None  # by one greedy reply
    atoms: Number | None  # as success at each step by itself predicts; None where the family cannot be cut


class Family(msgspec.Struct, frozen=True):
    """A stratum of the suite."""

    name: str
    kind: str
    n: Count
    level: Count
    chance: Number  # the largest guess probability among its problems
    eligible: bool
    practised: bool | None = None  # whether the run met problems of this kind; None where there is no record
    base: Reach | None = None  # None where the stratum was not sampled so
    trained: Reach | None = None


class SuiteInfo(msgspec.Struct, frozen=True):
    """The suite; ``n`` problems count, those of the eligible families."""

    name: str
    seed: str
    n: Count
    families: list[Family]


class MethodInfo(msgspec.Struct, frozen=True):
    """An elicitation method."""

    name: str
    text: str
    envelope: str
    idle: bool = False  # it solved no development problem of this base, and was given no samples


class Protocol(msgspec.Struct, frozen=True):
    """What was fixed before anything was sampled, see ``protocol.Plan``."""

    trained_draws: Count
    need: Count
    budget: Count
    training_draws: Count
    stage: Count
    follow: Count  # survivors that were followed to ``budget`` samples; 0: all
    envelopes: list[str]
    methods: list[MethodInfo]
    configurations: dict[str, str]  # the method that each side did best with on development problems
    unavailable: dict[str, str]  # methods that could not be made of this base, and why


class Headline(msgspec.Struct, frozen=True):
    """G@K and what it is made of, in percentage points (100 = every problem), against the decoding envelope."""

    k: Count
    g: Interval  # G(K) = E(K) - S(K); resamples problems within families, and runs where there are several
    e: Interval  # gained
    s: Interval  # lost
    family_interval: tuple[Number, Number] | None  # of G, for new families; None with one family
    n: Count
    runs: Count = 1


class Bound(msgspec.Struct, frozen=True):
    """Between what E lies after ``k`` samples, in percentage points; see ``gain.beyond``."""

    k: Count
    low: Number
    high: Number


class Claim(msgspec.Struct, frozen=True):
    """What is shown of one kind of problem against one envelope of the base, in percentage points of its problems."""

    kind: str
    envelope: str
    n: Count
    solved: Interval  # reliably, by the trained model
    g: Interval
    e: Interval
    # beyond: ``e`` is shown; within: the trained model solves them and the envelope reaches what it solves
    word: Literal["beyond", "within", "not shown"]


class Verdict(msgspec.Struct, frozen=True):
    """The word, the phrase that says of what and against what, and a sentence; ``qualified``: what limits all three."""

    word: Literal["Expansion", "Trade", "Sharpening", "Contraction", "Not shown", "Alarm"]
    phrase: str
    sentence: str
    claims: list[Claim]
    lost: list[str]
    qualified: list[str]


class CertifiedProblem(msgspec.Struct, frozen=True):
    """A problem whose gain stands on its own; ``base`` is (1 if a first success came, samples)."""

    problem: str
    family: str
    prompt: str
    p_value: Number
    base: Right
    trained: Right


class PassAt1(msgspec.Struct, frozen=True):
    """Mean success of one sample over all problems, and its change."""

    base: Estimate
    trained: Estimate
    gain: Estimate


class Curve(msgspec.Struct, frozen=True):
    """A curve over ``k`` samples with its 95 % band, which is empty where it is exact."""

    k: list[Annotated[int, Meta(ge=1, le=2**53)]]
    mean: list[Number]
    low: list[Number] = []
    high: list[Number] = []

    def __post_init__(self) -> None:
        _together(self.k, self.mean, *([self.low, self.high] if self.low or self.high else []))


class PassAtK(msgspec.Struct, frozen=True):
    """pass@k of both in turn over methods."""

    base: Curve
    trained: Curve
    methods: dict[str, Curve] | None  # exactly, of each of the base's alone; None where that is not known
    greedy: dict[str, Number | None] = {}  # of what each reaches at the last k, the share that one greedy reply solves
    zero: Count = 0  # families of which the base reaches no problem at the last k
    opened: Count = 0  # those of them of which the trained model does
    counted: Count = 0  # families in all


class ExactProblem(msgspec.Struct, frozen=True):
    """Exact probabilities of the accepted completion, T = 1 but for the base's best decoder."""

    base_best_log10: Number
    base_t1_log10: Number
    trained: Number


class ProblemRow(msgspec.Struct, frozen=True):
    """One problem; samples of the base in turn are 0 where the trained model is not reliable, losses the same."""

    id: str
    family: str
    prompt: str
    level: Count
    eligible: bool
    trained: Right  # in its configuration
    trained_interval: tuple[Number, Number]  # 95 % Clopper-Pearson
    base: Right  # in its own configuration
    base_first: Count | None  # the first success in turn over its methods, 1-based; None: none in ``base_draws``
    base_draws: Count
    base_upper: Number  # one-sided 95 % upper bound of the base's rate
    reached: str | None  # the method of a later envelope that solved it
    loss_first: Count | None  # the trained model's first success where the base is reliable
    loss_draws: Count
    certified: bool
    chance: Number  # of a guess
    exact: ExactProblem | None


class Support(msgspec.Struct, frozen=True, rename="upper"):
    """Shares of problems within reach at ``k``: both (P), trained only (E), base only (S), neither (O), and ratios."""

    k: Count = msgspec.field(name="k")
    p: Estimate
    e: Estimate
    s: Estimate
    o: Estimate
    srr: Estimate | None
    ndr: Estimate | None
    sds: Estimate | None
    nscr: Estimate | None


class Cover(msgspec.Struct, frozen=True):
    """Share of problems that one sample solves with probability ``tau`` or more."""

    tau: list[Number]
    trained: list[Estimate]
    base: list[Estimate]

    def __post_init__(self) -> None:
        _together(self.tau, self.trained, self.base)


class Spending(msgspec.Struct, frozen=True):
    """Coverage against mean generated tokens a problem."""

    tokens: list[Number]
    coverage: list[Number]

    def __post_init__(self) -> None:
        _together(self.tokens, self.coverage)


class Both(msgspec.Struct, Generic[T], frozen=True):
    """The same of both models."""

    base: T
    trained: T


class Tier(msgspec.Struct, frozen=True):
    """A tier of the base's exact reach: problems in it, and those solved after training."""

    name: str
    count: Count
    solved: Count


class Exact(msgspec.Struct, frozen=True):
    """What exact probabilities say: E(K), E by budget (beyond K too), mean success by decoder, tiers."""

    e: Number
    by_budget: dict[str, Number]
    decoders: dict[str, Both[Number]]
    tiers: list[Tier]


class Kept(msgspec.Struct, frozen=True):
    """A practised stratum before and after: ``flag`` a loss of a point is not excluded, ``lost`` one is shown."""

    name: str
    before: Number
    after: Number
    gain: Estimate
    flag: bool
    lost: bool


class Retention(msgspec.Struct, frozen=True):
    """What the base could do before; ``mean`` is the change over all strata, flagged by the same rule."""

    suites: list[Kept]
    mean: Estimate
    flag: bool


#: Share of each structural format among the completions.
Formats = Both[dict[str, Number]]


class Diversity(msgspec.Struct, frozen=True):
    """Variety of both models' completions of the same problems (``metrics.replies.compare``)."""

    base: dict[str, Number | None]
    trained: dict[str, Number | None]
    ratio: dict[str, Estimate]
    formats: Formats
    series: dict[str, list[Number | None]] | None = None  # measures of the training run by its steps (``step``)
    alarm: str | None = None  # of the training run


class Curriculum(msgspec.Struct, frozen=True):
    """Whether there was something to learn in what the loop made, see ``metrics.curriculum_card``."""

    episodes: Count
    played: Count
    learnable: Estimate | None
    learnable_series: list[Number] | None
    learnability: Number | None
    solved: Number | None
    solved_series: list[Number] | None
    proposed: Count
    unique: Estimate | None
    accepted: Estimate | None
    label_accuracy: Estimate | None
    problems: Count | None
    depth_series: list[Number] | None
    drift_base: Estimate | None
    drift_base_series: list[Number] | None


class Cost(msgspec.Struct, frozen=True):
    """Samples and tokens."""

    base_draws: Count
    round_robin_draws: Count
    trained_draws: Count
    envelope_draws: dict[str, Count]  # of the later envelopes
    panel_draws: Count  # of both models, for pass@k beside the headline alone
    full_draws: Count  # the base's samples in turn if nothing were stopped early
    tokens: Count
    drawn_now: Count
    seconds: Number
    envelope_seconds: dict[str, Number] = {}  # of the later envelopes, copies that were trained included


class RunRow(msgspec.Struct, frozen=True):
    """One of several runs: its model, its G(K) in percentage points, its own verdict; its report is in ``folder``."""

    model: ModelInfo
    g: Interval
    phrase: str
    folder: str


class Report(msgspec.Struct, frozen=True):
    """The whole file; the optional blocks are None where there is nothing to measure.

    ``runs``: of one recipe, where there are several: headline, verdict, pass@1, retention, decay, bounds and cost are
    the recipe's then, and everything problem by problem is the first run's.
    """

    base: ModelInfo
    trained: ModelInfo
    suite: SuiteInfo
    protocol: Protocol
    headline: Headline
    verdict: Verdict
    certified: list[CertifiedProblem]
    pass1: PassAt1
    pass_at_k: PassAtK
    decay: Curve
    bounds: list[Bound]
    problems: list[ProblemRow]
    support: list[Support]
    cover: Cover
    compute: Both[Spending]
    cost: Cost
    exact: Exact | None = None
    retention: Retention | None = None
    diversity: Diversity | None = None
    curriculum: Curriculum | None = None
    commit: str = ""
    versions: dict[str, str] = {}
    runs: list[RunRow] = []
    kind: Literal["frontier"] = "frontier"
    schema: Literal[4] = 4


def _together(*lists: list) -> None:
    if len(sizes := {len(some) for some in lists}) > 1:
        raise ValueError(f"lists of {min(sizes)} and {max(sizes)} values that belong together")


def read_report(folder: Path) -> Report:
    """``frontier.json`` of this folder."""
    path = Path(folder) / "frontier.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except FileNotFoundError:
        raise DreamEnvsError(f"{path} is not there: give a folder that `dream-envs frontier` has written") from None
    except OSError as error:
        raise DreamEnvsError(f"{path} cannot be read ({error.strerror})") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        told = ascii(str(error))[1:-1][:200]
        raise DreamEnvsError(f"{path} is no Frontier Report of schema 4 ({told}): evaluate again") from error
