"""One file decides which build runs, and everybody gets that one."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fastgw import _ext

PROBE = """
import sys
{before}
from fastgw import _ext
names = [getattr(_ext, name).__name__ for name in _ext.MODULES]
print(_ext.BUILD, *names)
"""


def probe(before="", **env):
    """Import the package in a fresh interpreter; give its build and its modules' names."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(before=before)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    build, *names = done.stdout.split()
    return build, names


def test_pure_can_be_forced():
    """FASTGW_PURE=1 takes the twins and loads nothing compiled."""
    build, names = probe(FASTGW_PURE="1")
    assert build == "pure"
    assert names == [f"fastgw._ext.pure.{name}" for name in _ext.MODULES]


def test_a_missing_module_makes_all_pure():
    """There is no mixture of builds: one compiled module that cannot load turns all to pure."""
    build, names = probe("sys.modules['fastgw._ext._ids'] = None", FASTGW_PURE="")
    assert build == "pure"
    assert names == [f"fastgw._ext.pure.{name}" for name in _ext.MODULES]


def test_compiled_is_the_default():
    """Where the modules are built, they run."""
    if find_spec("fastgw._ext._scan") is None:
        if os.environ.get("CI"):
            pytest.fail("no compiled build")
        pytest.skip("no compiled build")
    build, names = probe(FASTGW_PURE="")
    assert build == "compiled"
    assert names == [f"fastgw._ext._{name}" for name in _ext.MODULES]


def declared(body):
    """Give the names that statements of a stub declare, with those inside classes."""
    for node in body:
        if isinstance(node, ast.AnnAssign):
            if ast.unparse(node.annotation) == "TypeAlias":
                continue  # for who reads the stub alone
            yield ast.unparse(node.target), ()
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, tuple(declared(getattr(node, "body", ())))


def test_both_builds_offer_what_the_stubs_declare(twins):
    """The stubs are the contract: each name in them is there in both builds."""
    for module in _ext.MODULES:
        stub = Path(_ext.__file__).with_name(f"_{module}.pyi").read_text()
        names = list(declared(ast.parse(stub).body))
        assert names
        for build in twins:
            for name, members in names:
                offered = getattr(getattr(build, module), name)
                assert offered.__doc__, name
                if isinstance(offered, type) and not issubclass(offered, Exception):
                    there = set(dir(offered))
                    if name in CONSTRUCTED:
                        there |= set(dir(offered(*CONSTRUCTED[name])))
                    assert {member for member, _ in members} <= there


CONSTRUCTED = {
    "Tap": (),
    "Source": ("x",),
    "Fields": ((),),
    "Head": (),
    "Framing": (),
    "Meter": (1,),
    "Window": (1, 1),
    "Bucket": (1, 1, 1),
    "Slots": (1,),
    "Budget": (1, "day"),
    "Guard": ((),),
    "Shared": ("key", 1, 0, 1),
    "Journal": (),
    "Tariff": (_ext.estimate.Family(),),
}
"""What the classes need to be made, for those whose members are set then."""
