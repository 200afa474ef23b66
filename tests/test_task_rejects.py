"""Every reason code that a task family can give, each with at least one proposal that meets it."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import pytest
from _families import NAMES

from dream_envs import registry
from dream_envs.core import Reject

C, E = "compact", "english"

#: family, notation, knobs, proposal, the code it must be turned away with
REJECTS: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("composition", C, {}, "", "empty"),
    ("composition", C, {}, "a:" + "A" * 17, "too_long"),
    ("composition", C, {}, "a:А", "charset"),  # a Cyrillic letter
    ("composition", C, {}, "a:a", "grammar"),
    ("composition", C, {}, "a:", "grammar"),
    ("composition", C, {"n_operations": 2, "held_out_pairs": 3}, "a:AABBABA", "ok"),
    ("composition", C, {"n_operations": 2, "held_out_pairs": 3, "reject_held_out": True}, "a:AABBABA", "held_out"),
    ("composition", E, {}, "start a; apply " + ", ".join("A" * 17), "limits"),
    ("composition", E, {}, "start a; apply A,B", "grammar"),
    ("arithmetic", C, {}, "", "empty"),
    ("arithmetic", C, {}, "1+" * 40 + "1=", "too_long"),
    ("arithmetic", C, {}, "3+４*2=", "charset"),
    ("arithmetic", C, {}, "3 + 4=", "charset"),
    ("arithmetic", C, {"operators": "+-"}, "3*4=", "charset"),
    ("arithmetic", C, {}, "3+4", "grammar"),
    ("arithmetic", C, {}, "03+4=", "grammar"),
    ("arithmetic", C, {}, "-3+4=", "grammar"),
    ("arithmetic", C, {}, "3+-4=", "grammar"),
    ("arithmetic", C, {}, "3+4)=", "grammar"),
    ("arithmetic", C, {}, "(3+4=", "grammar"),
    ("arithmetic", C, {}, "2(3+4)=", "grammar"),
    ("arithmetic", C, {}, "()=", "grammar"),
    ("arithmetic", C, {}, "3+4==", "grammar"),
    ("arithmetic", C, {}, "3**4=", "grammar"),
    ("arithmetic", E, {}, "compute 3+4", "grammar"),
    ("arithmetic", E, {}, "compute 1 2 + 4", "grammar"),
    ("arithmetic", E, {}, "compute compute 3 + 4", "grammar"),
    ("arithmetic", C, {}, "3+(4*2)=", "not_canonical"),
    ("arithmetic", C, {}, "3+(4-2)=", "not_canonical"),
    ("arithmetic", C, {}, "((3+4))*2=", "not_canonical"),
    ("arithmetic", C, {}, "(3)+4=", "not_canonical"),
    ("arithmetic", C, {}, "13+4=", "limits"),
    ("arithmetic", C, {}, "1+1+1+1+1+1+1+1+1+1=", "limits"),
    ("arithmetic", C, {"max_depth": 1}, "9-(8-(7-6))=", "limits"),
    ("arithmetic", C, {}, "9*9*9*9*9*9*9=", "limits"),  # 9**7 > 10**6
    ("arithmetic", C, {}, "9*9*9*9*9*9*9-9*9=", "limits"),
    ("arithmetic", C, {}, "8/(3-3)=", "execution"),
    ("arithmetic", C, {}, "0*(1/0)=", "not_canonical"),
    ("arithmetic", C, {}, "0*1/0=", "execution"),
    ("arithmetic", C, {}, "5=", "trivial"),
    ("arithmetic", C, {}, "5*1=", "trivial"),
    ("arithmetic", C, {}, "3+4-4=", "trivial"),
    ("arithmetic", C, {}, "3/4=", "leak"),
    ("arithmetic", C, {}, "2-3-2=", "leak"),
    ("arithmetic", C, {"digits": 2}, "13/4+1-1=", "leak"),
    ("reverse_addition", C, {}, "", "empty"),
    ("reverse_addition", C, {}, "1" * 40 + "+" + "1" * 40 + "=", "too_long"),
    ("reverse_addition", C, {}, "1٢+34=", "charset"),
    ("reverse_addition", C, {}, "12+34", "grammar"),
    ("reverse_addition", C, {}, "12+34+56=", "grammar"),
    ("reverse_addition", C, {}, "+34=", "grammar"),
    ("reverse_addition", E, {}, "add 12 and ", "grammar"),
    ("reverse_addition", C, {}, "10+34=", "not_canonical"),  # 01 + 43
    ("reverse_addition", C, {}, "123+34=", "limits"),
    ("reverse_addition", C, {"max_level": 3}, "1234+1234=", "limits"),
    ("reverse_addition", C, {}, "0+3=", "trivial"),
    ("countdown", C, {}, "", "empty"),
    ("countdown", C, {}, "3,5,7:22=" + "3*5+7" * 20, "too_long"),
    ("countdown", C, {}, "3,5,7:２２=", "charset"),
    ("countdown", C, {}, "3,5,7:22", "grammar"),
    ("countdown", C, {}, "3,5,7:22==", "grammar"),
    ("countdown", C, {}, "3,5,,7:22=", "grammar"),
    ("countdown", C, {}, "03,5,7:22=", "grammar"),
    ("countdown", C, {}, "3,5,7:22=3*5+", "grammar"),
    ("countdown", C, {}, "3,5,7:22=3*5+7:", "grammar"),
    ("countdown", C, {}, "3,5,7:22=3*5+7=22", "grammar"),
    ("countdown", E, {}, "make 22 from 3,5,7", "grammar"),
    ("countdown", E, {}, "make 22 from 3, 5, 7 by ", "grammar"),
    ("countdown", E, {}, "make 22 from 3, 5, 7 by 3*5 + 7", "grammar"),
    ("countdown", C, {}, "7,3,5:22=", "not_canonical"),
    ("countdown", C, {}, "3,5,7:22=(3*5)+7", "not_canonical"),
    ("countdown", C, {}, "5:22=", "limits"),
    ("countdown", C, {}, "1,2,3,4,5,6,7:22=", "limits"),
    ("countdown", C, {}, "3,5,100:108=", "limits"),
    ("countdown", C, {}, "0,5,7:12=", "limits"),
    ("countdown", C, {}, "80,90:7200=80*90", "limits"),
    ("countdown", C, {}, "3,5,7:7=", "trivial"),
    ("countdown", C, {}, "3,5,7:22=3*5+8", "certificate"),  # not a given number
    ("countdown", C, {}, "3,5,7:22=3*7+1", "certificate"),
    ("countdown", C, {}, "3,5,7:15=3*5", "certificate"),  # leaves 7 unused
    ("countdown", C, {}, "3,5,7:23=3*5+7", "certificate"),
    ("countdown", C, {}, "3,3,7:22=7/(3-3)", "certificate"),
    ("countdown", C, {}, "1,1,1,1:24=", "certificate"),
    ("countdown", C, {"search_steps": 0}, "3,5,7:22=", "certificate"),
    ("countdown", C, {"search_steps": 1}, "3,3,8,8:24=", "certificate"),
    ("programs", C, {}, "", "empty"),
    ("programs", C, {}, "d" + "+" * 99 + "nx:[3,1]", "too_long"),
    ("programs", C, {}, "dnx:[3,1]\n", "charset"),
    ("programs", C, {}, "drx", "grammar"),
    ("programs", C, {}, "xrx:[3,1]", "grammar"),
    ("programs", C, {}, "dr:[3,1]", "grammar"),
    ("programs", C, {}, "drxx:[3,1]", "grammar"),
    ("programs", C, {}, "d+nx:[3,1]", "grammar"),
    ("programs", C, {}, "d+nxx:[3,1]", "grammar"),  # a list is no number
    ("programs", C, {}, "d+yhx:[3,1]", "grammar"),  # y outside of a body
    ("programs", C, {}, "d@+zyx:[3,1]", "grammar"),  # z outside of a fold
    ("programs", C, {}, "dtx:[3,01]", "grammar"),
    ("programs", C, {}, "dtx:[3,,1]", "grammar"),
    ("programs", C, {}, "dtx:[]", "grammar"),
    ("programs", E, {}, "deduction: tail(x) with [3,1]", "grammar"),
    ("programs", E, {}, "deduction: tail(x with [3, 1]", "grammar"),
    ("programs", E, {}, "deduction: t(x) with [3, 1]", "grammar"),
    ("programs", E, {}, "deduction: __import__(x) with [3, 1]", "charset"),
    ("programs", E, {}, "deduction: exit(x) with [3, 1]", "grammar"),
    ("programs", C, {"max_level": 1}, "drtx:[3,1]", "limits"),
    ("programs", C, {}, "dtx:[3,100]", "limits"),
    ("programs", C, {}, "dtx:[1,2,3,4,5,6,7,8,9]", "limits"),
    ("programs", C, {"mode": "abduction"}, "dtx:[3,1]", "limits"),
    ("programs", C, {}, "d/8-1nx:[5]", "execution"),
    ("programs", C, {}, "dhttttx:[1,2,3,4,5]", "execution"),  # on most inputs
    ("programs", C, {}, "d*9*9*9*9nx:[1,2]", "execution"),  # a number beyond the bound
    ("programs", C, {}, "dx:[3,1]", "trivial"),
    ("programs", C, {}, "dg3:[3,1]", "trivial"),
    ("programs", C, {}, "dnrx:[3,1]", "ok"),
    ("programs", C, {}, "drrx:[3,1]", "trivial"),
    ("programs", C, {}, "doox:[3,1]", "trivial"),
    ("programs", C, {}, "d+0nx:[3,1]", "trivial"),
    ("programs", C, {}, "d*0nx:[3,1]", "trivial"),
    ("programs", C, {}, "d@3x:[3,1]", "trivial"),
    ("programs", C, {}, "d+1+2nx:[3,1]", "ok"),
    ("programs", C, {}, "d++12nx:[3,1]", "trivial"),
    ("programs", C, {}, "dtx:[3]", "trivial"),  # the output is []
    ("programs", C, {}, "a<nx3:[9]", "trivial"),
    ("programs", C, {}, "dhox:[3,1]", "leak"),
    ("programs", C, {}, "aox:[1,3]", "leak"),
    ("programs", C, {}, "iox:[1,3]", "ok"),
    ("python", C, {}, "", "empty"),
    ("python", E, {}, "<think>deduction", "empty"),
    ("python", C, {}, "deduction\ndef f(x):\n    return len(x)\nf([" + "1, " * 500 + "1])", "too_long"),
    ("python", C, {}, "deduction\ndef f(x):\n\treturn len(x)\nf([3, 1])", "charset"),
    ("python", C, {}, "deduction\ndef f(x):\n    return len(x)", "grammar"),
    ("python", C, {}, "deduction\ndef f(x:\n    return len(x)\nf([3, 1])", "grammar"),
    ("python", C, {}, "deduction\ndef g(x):\n    return len(x)\nf([3, 1])", "grammar"),
    ("python", C, {}, "deduction\ndef f(x):\n    return len(x)\nprint(f([3]))\nf([3, 1])", "grammar"),
    ("python", C, {}, "deduction\ndef f(x):\n    return len(x)\nf(g(3))", "grammar"),
    ("python", C, {"max_level": 1}, "deduction\ndef f(x):\n    return len(x) + 1\nf([3, 1])", "limits"),
    ("python", C, {"mode": "abduction"}, "deduction\ndef f(x):\n    return len(x)\nf([3, 1])", "limits"),
    ("python", C, {}, "deduction\nimport os\ndef f(x):\n    return len(x)\nf([3, 1])", "limits"),
    ("python", C, {}, "deduction\ndef f(x):\n    return x // 0\nf(3)", "execution"),
    ("python", C, {}, "deduction\ndef f(x):\n    return x\nf([3, 1])", "trivial"),
    ("python", C, {}, "deduction\ndef f(x):\n    return x[:9]\nf([3, 1])", "trivial"),
    ("python", C, {}, "induction\ndef f(x):\n    return len(x) > 0\nf([3, 1])", "trivial"),
    ("python", C, {}, "abduction\ndef f(x):\n    return sorted(x)\nf([1, 3])", "leak"),
    ("python", C, {}, "deduction\ndef f(x):\n    return len(x)\nf([3, 1])", "ok"),
    ("python", E, {}, "deduction\ndef f(x):\n    return len(x)\nf([3, 1])\nThat is it.", "ok"),
]
REJECTS = [row for row in REJECTS if row[0] in NAMES]  # python needs a sandbox


@pytest.mark.parametrize(("name", "notation", "knobs", "text", "code"), REJECTS)
def test_reason_codes(name: str, notation: str, knobs: dict[str, Any], text: str, code: str) -> None:
    found = registry.create("tasks", name, notation=notation, **knobs).parse(text)
    assert (found.code if isinstance(found, Reject) else "ok") == code, found


@pytest.mark.parametrize("name", NAMES)
def test_every_code_of_a_family_has_an_example(name: str) -> None:
    source = inspect.getsource(importlib.import_module(registry.rows("tasks")[name].partition(":")[0]))
    codes = set(re.findall(r'Reject\(\s*"(\w+)"', source))
    assert codes and codes <= {row[4] for row in REJECTS if row[0] == name}
