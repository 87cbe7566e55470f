"""Both builds of fastgw/_ext side by side: every test of theirs runs over the two."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

import pytest

COMPILED = "fastgw._ext._{}"
PURE = "fastgw._ext.pure.{}"


class Build:
    """One build; its modules are attributes: `build.scan`."""

    def __init__(self, name: str, pattern: str) -> None:
        self.name = name
        self._pattern = pattern

    def __getattr__(self, module: str) -> ModuleType:
        try:
            return import_module(self._pattern.format(module))
        except ModuleNotFoundError as error:
            raise AttributeError(module) from error

    def __repr__(self) -> str:
        return self.name


def _compiled() -> Build:
    try:
        import_module(COMPILED.format("scan"))
    except ImportError as error:
        reason = f"no compiled build: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Build("compiled", COMPILED)


@pytest.fixture(params=["compiled", "pure"], scope="session")
def build(request: pytest.FixtureRequest) -> Build:
    """Give each build in turn."""
    return Build("pure", PURE) if request.param == "pure" else _compiled()


@pytest.fixture(scope="session")
def twins() -> tuple[Build, Build]:
    """Give the compiled build and the pure one."""
    return _compiled(), Build("pure", PURE)
