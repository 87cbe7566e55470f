"""Build the compiled hot loops. Without a compiler the pure twins serve instead."""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, setup

SOURCES = [
    source
    for types in sorted(Path("fastgw").glob("*/*.pxd"))
    for source in (types.with_suffix(".pyx"), types.with_suffix(".py"))
]
"""One text each: `.pyx` where there is no other form, `.py` where it serves uncompiled as well."""


def extensions() -> list[Extension]:
    """Give what to compile; optional, so that a failing compiler leaves a working install."""
    if os.environ.get("FASTGW_PURE"):
        return []
    from Cython.Build import cythonize  # noqa: PLC0415 - not needed for a pure install

    modules = [
        Extension(
            ".".join(path.with_suffix("").parts),
            [str(path)],
            extra_compile_args=["-O2", "-g0"],
        )
        for path in SOURCES
        if path.exists()
    ]
    built: list[Extension] = cythonize(
        modules,
        language_level=3,
        build_dir="build/cython",
        compiler_directives={"boundscheck": False, "wraparound": False, "initializedcheck": False},
    )
    for module in built:  # set here: cythonize does not carry it over
        module.optional = not os.environ.get("FASTGW_REQUIRE_EXT")
    return built


setup(ext_modules=extensions())
