"""``frontier.json`` of schema 2 for the report tests: a simulated evaluation, of the schema that the protocol writes.

A world of families with a base rate for every problem; training sharpens the rates (a shift of their logits), adds new
problems and loses old ones.  Draws are binomial, first successes geometric; the figures follow from the draws.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from dream_envs.seeds import stream

BUDGETS = (1024, 2048, 4096, 8192)
NEED, DRAWS = 4, 16
#: What training did: (shift of the logit, share of impossible problems gained, share of solved problems lost).
WORLDS = {
    "Expansion": (2.0, 0.2, 0.01),
    "Sharpening": (7.0, 0.0, 0.0),
    "Contraction": (0.5, 0.0, 0.12),
    "Inconclusive": (0.6, 0.015, 0.005),
}
FAMILIES = (
    ("composition/depth-4", "inside support", False, 4), ("composition/depth-5", "longer composition", False, 5),
    ("composition/depth-6", "longer composition", False, 6), ("composition/depth-8", "longer composition", False, 8),
    ("composition/pairs", "held-out pairs", True, 5), ("composition/operations", "held-out operations", True, 4),
    ("arithmetic", "inside support", False, 3), ("small-answers", "inside support", False, 2),
)  # fmt: skip
ARMS = ("plain T=0.7", "step by step T=1.0", "four shots T=0.7", "four shots T=1.0", "code T=0.8", "CoT decoding")
BLOCKS = (
    "certified", "pass1", "pass_at_k", "decay", "problems", "support", "cover", "compute", "tiers", "exact",
    "retention", "diversity", "judge", "curriculum", "cost",
)  # fmt: skip


def frontier(word: str = "Expansion", per_family: int = 40) -> dict[str, Any]:
    """The whole object after a training with the effect of this verdict's world."""
    shift, gain, loss = WORLDS[word]
    rng = stream("frontier-tests", word, str(per_family))
    rows, base_p, trained_p = [], [], []
    for f, (name, _, held, level) in enumerate(FAMILIES):
        for i in range(per_family):
            eligible = name != "small-answers"
            impossible = rng.random() < 0.1 + 0.09 * (level - 2) * (level > 3)
            p = 0.0 if impossible else float(rng.beta(0.2, 1.0))
            q = 1 / (1 + math.exp(-shift) * (1 - p) / p) if p > 1e-12 else 0.0
            q = float(rng.uniform(0.4, 0.99)) if impossible and rng.random() < gain else q
            q = 0.0 if rng.random() < loss else q
            base_p.append(p)
            trained_p.append(q)
            rows.append(_problem(rng, f"{f:02d}-{i:04d}", name, level, held, eligible, p, q))
    data = _figures(word, rows, np.array(base_p), np.array(trained_p), per_family)
    return json.loads(json.dumps(data))


def _problem(
    rng: np.random.Generator, name: str, family: str, level: int, held: bool, eligible: bool, p: float, q: float
) -> dict[str, Any]:
    c, c_base = int(rng.binomial(DRAWS, q)), int(rng.binomial(DRAWS, p))
    first, draws = None, 0
    if c >= NEED and eligible:
        first = int(rng.geometric(p)) if p > 0 else None
        first = None if first is None or first > BUDGETS[-1] else first
        draws = first or BUDGETS[-1]
    upper = 1 - 0.05 ** (1 / draws) if draws and first is None else min(1.0, 4.74 / draws) if draws else 1.0
    prompt = "c:" + "".join("ABCD"[k] for k in rng.integers(4, size=level)) + f" from state {name[-2:]}"
    return {
        "id": name, "family": family, "prompt": prompt, "level": level, "held_out": held, "eligible": eligible,
        "trained": [c, DRAWS], "base_first": first, "base_draws": draws, "base_upper": upper,
        "trained_interval": [max(c / DRAWS - 0.2, 0), min(c / DRAWS + 0.2, 1)],
        "certified": bool(eligible and draws == BUDGETS[-1] and first is None and c >= NEED),
        "chance": 16.0 ** -level,
        "base": [c_base, DRAWS], "vetoed": None,
        "loss_first": 1 if c_base >= NEED and q > 0 else None, "loss_draws": (1 if q > 0 else 1024) * (c_base >= NEED),
        "exact": {
            "base_best_log10": math.log10(max(p, 1e-12)), "base_t1_log10": math.log10(max(p, 1e-13)), "trained": q,
        },
    }  # fmt: skip


def band(value: float, half: float = 0.02) -> list[float]:
    """[value, low, high]."""
    return [value, value - half, value + half]


def _figures(word: str, rows: list[dict[str, Any]], p: np.ndarray, q: np.ndarray, per_family: int) -> dict[str, Any]:
    n = len(rows)
    reliable = np.array([r["trained"][0] >= NEED and r["eligible"] for r in rows])
    first = np.array([r["base_first"] or 0 for r in rows])
    missed = {k: reliable & ((first == 0) | (first > k)) for k in BUDGETS}
    e = {k: 100 * float(m.mean()) for k, m in missed.items()}
    d = [e[a] - e[b] for a, b in itertools.pairwise(BUDGETS)]
    r = min(max((d[1] + d[2]) / (d[0] + d[1]), 0), 0.9) if d[0] + d[1] else 0.0
    e_star = e[8192] - d[2] * r / (1 - r)
    s = 100 * float(((p > 0.25) & (q == 0)).mean())
    fg, half = e_star - s, 1.2
    certified = [x for x in rows if x["certified"]]
    ks = [2**i for i in range(14)]
    pass_k = {k: float((1 - (1 - p) ** k).mean()) for k in ks}
    kinds = {
        k: sum(r["certified"] for r in rows if r["family"] in _of(k)) for k in dict.fromkeys(f[1] for f in FAMILIES)
    }
    return {
        "schema": 2, "kind": "frontier",
        "base": {"name": "nano/compose", "weights_hash": "0f" * 32},
        "trained": {"name": "runs/full-0", "weights_hash": "a1" * 32, "run": "runs/full-0"},
        "suite": {"name": "composition", "seed": "round-1", "n": n, "families": [
            {"name": name, "n": per_family, "held_out": held, "eligible": name != "small-answers",
             "chance": 16.0 ** -level, "level": level, "kind": kind} for name, kind, held, level in FAMILIES]},
        "protocol": {"trained_draws": DRAWS, "need": NEED, "budgets": list(BUDGETS), "loss_budget": 1024, "arms": [
            *[{"name": a, "text": f"Prompt of the arm '{a}', sampled as named.", "veto": False} for a in ARMS],
            {"name": "format LoRA", "text": "Rank 8, 64 demonstrations of the format.", "veto": True}]},
        "headline": {
            "fg": fg, "low": fg - half, "high": fg + half, "e": e[8192], "e_star": e_star, "s": s,
            "persistence": e[8192] / e[4096] if e[4096] else None, "by_budget": {str(k): v for k, v in e.items()},
            "family_interval": [fg - 1.7 * half, fg + 1.7 * half],
            "held_out": {"fg": fg * 0.8, "low": fg * 0.8 - 2 * half, "high": fg * 0.8 + 2 * half, "n": 2 * per_family},
            "runs": {"fg": fg - 0.1, "low": fg - 2.2, "high": fg + 2.0, "count": 5}, "n": n},
        "verdict": {"word": word, "sentence": f"{len(certified)} problems are certified.", "kinds": kinds},
        "certified": [{"problem": x["id"], "family": x["family"], "prompt": x["prompt"], "p_value": 1.2e-5,
                       "base": [0, x["base_draws"]], "trained": x["trained"]} for x in certified],
        "pass1": {"base": _mean(p.mean()), "trained": _mean(q.mean()), "gain": _mean(q.mean() - p.mean())},
        "pass_at_k": {
            "trained": _curve([1, 2, 4, 8, 16], lambda k: float((1 - (1 - q) ** k).mean())),
            "base": _curve(ks, pass_k.get),
            "arms": {a: {"k": ks[:11], "mean": [pass_k[k] * (0.86 + 0.02 * i) for k in ks[:11]]}
                     for i, a in enumerate(ARMS)}},
        "decay": _decay(reliable, first),
        "problems": rows, **_panels(p, q), "cost": {
            "base_draws": int(sum(r["base_draws"] for r in rows)), "trained_draws": DRAWS * n, "veto_draws": 2560,
            "full_draws": n * (BUDGETS[-1] + DRAWS), "tokens": 40_960_000, "seconds": 5123.4},
    }  # fmt: skip


def _of(kind: str) -> set[str]:
    return {name for name, k, _, _ in FAMILIES if k == kind}


def _mean(value: Any) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), band(float(value)), strict=True))


def _curve(ks: list[int], at: Any) -> dict[str, Any]:
    means = [at(k) for k in ks]
    return {"k": ks, "mean": means, "low": [m - 0.02 for m in means], "high": [min(m + 0.02, 1) for m in means]}


def _decay(reliable: np.ndarray, first: np.ndarray) -> dict[str, Any]:
    ks = [2**i for i in range(14)]
    e = [100 * float((reliable & ((first == 0) | (first > k))).mean()) for k in ks]
    half = [1.96 * 100 * math.sqrt(max(x / 100 * (1 - x / 100), 1e-4) / len(first)) for x in e]
    return {"k": ks, "e": e, "low": [max(x - h, 0) for x, h in zip(e, half, strict=True)],
            "high": [x + h for x, h in zip(e, half, strict=True)]}  # fmt: skip


def _support(p: np.ndarray, q: np.ndarray, k: int) -> dict[str, Any]:
    a, b = 1 - (1 - q) ** k, 1 - (1 - p) ** k
    both, new, old = (float(x.mean()) for x in (a * b, a * (1 - b), (1 - a) * b))
    srr, ndr = both / (both + old or 1), new / (both + new or 1)
    figures = {"P": both, "E": new, "S": old, "O": 1 - both - new - old, "SRR": srr, "NDR": ndr,
               "SDS": 2 * srr * ndr / (srr + ndr or 1),
               "NSCR": (new - old) / (both + new + old) if both + new + old else 0.0}  # fmt: skip
    return {"k": k, **{name: band(v) for name, v in figures.items()}}


def _panels(p: np.ndarray, q: np.ndarray) -> dict[str, Any]:
    best = np.maximum(p, 1e-12)
    groups = [best >= 0.01, (best < 0.01) & (best >= 1e-5), best < 1e-5]
    tokens = [2.0**i * 40 for i in range(14)]
    steps = [0, 1, 2, 4, 8, 16, 32, 64, 128, 160]
    taus = [0.1, 0.25, 0.5, 0.9]
    return {
        "support": [_support(p, q, k) for k in (16, 128, 1024)],
        "cover": {"tau": taus, "trained": [band(float((q >= t).mean())) for t in taus],
                  "base": [band(float((p >= t).mean())) for t in taus]},
        "compute": {"base": {"tokens": tokens, "coverage": [float((1 - (1 - p) ** (t / 40)).mean()) for t in tokens]},
                    "trained": {"tokens": tokens[:5],
                                "coverage": [float((1 - (1 - q) ** (t / 40)).mean()) for t in tokens[:5]]}},
        "tiers": {"names": ["T0", "T1", "T2"], "count": [int(g.sum()) for g in groups],
                  "solved": [int((g & (q > 0.5)).sum()) for g in groups]},
        "exact": {"e": 2.4, "fg": 2.1, "decoders": {
            d: {"base": float((p**x).mean()), "trained": float((q**x).mean())}
            for d, x in (("T=1", 1), ("best_T", 0.9))}},
        "retention": {
            "suites": [
                {"name": "single steps", "before": 0.998, "after": 0.991, "gain": band(-0.007, 0.004), "flag": False},
                {"name": "instructions", "before": 0.71, "after": 0.64, "gain": band(-0.07, 0.03), "flag": True},
                {"name": "depth 3", "before": 0.93, "after": 0.99, "gain": band(0.06, 0.015), "flag": False}],
            "matrix": {"rows": ["start", "stage 1", "stage 2"], "columns": ["depth 3", "depth 4", "depth 5"],
                       "values": [[0.93, 0.31, 0.0], [0.98, 0.95, 0.22], [0.97, 0.96, 0.9]]},
            "bwt": band(-0.004, 0.01), "fwt": band(0.11, 0.03)},
        "diversity": {
            "base": {"format_entropy": 2.31, "answer_entropy": 1.12, "vendi": 9.1, "distinct_2": 0.41},
            "trained": {"format_entropy": 1.74, "answer_entropy": 0.33, "vendi": 4.2, "distinct_2": 0.38},
            "ratio": {"format_entropy": band(0.75, 0.1), "answer_entropy": band(0.29, 0.08), "vendi": band(0.46, 0.07),
                      "distinct_2": band(0.93, 0.05)},
            "formats": {"base": {"steps": 0.44, "bare answer": 0.31, "list": 0.15, "code": 0.1},
                        "trained": {"steps": 0.91, "bare answer": 0.07, "code": 0.02}},
            "series": {"step": steps, "format_entropy": [2.31 - 0.003 * s for s in steps],
                       "answer_entropy": [1.12 * 0.992**s for s in steps]},
            "alarm": "Vendi ratio 0.46 is below 0.5 on two consecutive checkpoints"},
        "judge": {"alpha": 0.71, "swap_flip_rate": 0.12, "cyclic_triads": 0.03, "fails_null_outputs": True},
        "curriculum": {"band": [0.3, 0.28, 0.33], "band_series": [0.2, 0.31, 0.45], "unique": 0.97, "problems": 1234,
                       "drift_base_series": [0.1, 1.4, 3.3, 4.0]},
    }  # fmt: skip


def without(data: dict[str, Any], *blocks: str) -> dict[str, Any]:
    """A copy in which these blocks are null (all optional ones if none is named)."""
    return {**copy.deepcopy(data), **dict.fromkeys(blocks or BLOCKS)}


def bare(data: dict[str, Any]) -> dict[str, Any]:
    """Only what is required, with every part of it that may be null being null."""
    found = without(data)
    found["headline"].update(persistence=None, held_out=None, runs=None)
    return found


def with_texts(value: Any, text: str) -> Any:
    """Every text, of keys that are names too, replaced by this one; numbers and the schema stay."""
    if isinstance(value, list):
        return [with_texts(v, text) for v in value]
    if isinstance(value, dict):
        return {k: with_texts(v, text) for k, v in value.items()}
    return text if isinstance(value, str) else value


def write(folder: Path, data: Any) -> Path:
    """The folder, with this ``frontier.json`` in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "frontier.json").write_text(json.dumps(data), encoding="utf-8")
    return folder
