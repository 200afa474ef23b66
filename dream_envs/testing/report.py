"""What a conformance run found: named checks, each passed, failed or skipped, with one line of reason."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal


class Failure(AssertionError):
    """A check's finding: what is wrong, in one line."""


class Skip(Exception):
    """A check that does not apply, and why."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One check's result; ``seconds`` is its wall-clock time."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    reason: str = ""
    seconds: float = 0.0


def run_check(name: str, function: Callable[..., None], *arguments: Any) -> Check:
    """One check's result; whatever it raises becomes a line of reason."""
    status: Literal["passed", "failed", "skipped"] = "failed"
    reason, began = "", time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(*arguments)
        status = "passed"
    except Skip as why:
        status, reason = "skipped", str(why)
    except Failure as why:
        reason = " ".join(str(why).split())
    except Exception as error:
        reason = "raised " + " ".join(f"{type(error).__name__}: {error}".split())[:240]
    return Check(name, status, reason, time.perf_counter() - began)


@dataclasses.dataclass(frozen=True)
class Report:
    """All results, in the order the checks ran; a check that builds on a failed one is skipped."""

    subject: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True if no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The failed checks."""
        return tuple(check for check in self.checks if check.status == "failed")

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; there are {', '.join(c.name for c in self.checks)}")

    def raise_if_failed(self) -> None:
        """Raise an AssertionError with one line a failed check, if any failed."""
        if not self.ok:
            lines = [f"  {c.name}: {c.reason}" for c in self.failed]
            raise AssertionError("\n".join([f"{self.subject} fails {len(lines)} check(s)", *lines]))

    def __str__(self) -> str:
        width = max((len(c.name) for c in self.checks), default=0)
        mark = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip"}
        lines = [f"{mark[c.status]} {c.name:<{width}} {c.seconds:6.2f} s  {c.reason}".rstrip() for c in self.checks]
        return "\n".join([self.subject, *lines])
