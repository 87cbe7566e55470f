"""Put the configuration together: command line, environment, `.env`, file, defaults, in that order.

The only place that reads the process environment, configuration files and secret files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from fastgw.config import environ as env
from fastgw.config.checks import disagreements
from fastgw.config.errors import ConfigError, Problem, suggest
from fastgw.config.files import parse_file, read_text
from fastgw.config.schema import Settings
from fastgw.config.shape import fields, is_secret, kind_at, leaves, settings
from fastgw.config.stamps import Stamp, stamp
from fastgw.config.tree import Node, Origin, deepest, dotted, graft, overlay

FILE_NAMES = ("fastgw.yaml", "fastgw.toml")
DOTENV = ".env"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a configuration is made from; kept, so that it can be read again."""

    overrides: Mapping[str, Any]
    path: str | None
    environ: Mapping[str, str]
    cwd: Path
    discovery: env.Discovery
    provider_types: Collection[str] | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration with what is known about it.

    `origins` says for each value, by its path (`providers[0].api_key`), where it came from.
    `stamps` has the files it was read from, and those that would have been, as they were before.
    """

    settings: Settings
    origins: Mapping[str, str]
    path: Path | None
    stamps: Mapping[Path, Stamp | None]
    warnings: tuple[str, ...]
    inputs: Inputs

    def again(self) -> Loaded:
        """Read the same sources once more; ConfigError leaves this one as good as it was."""
        return _load(self.inputs)


def load(
    overrides: Mapping[str, Any] | None = None,
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    *,
    discovery: env.Discovery = MappingProxyType({}),
    provider_types: Collection[str] | None = None,
) -> Loaded:
    """Read the configuration; ConfigError lists every problem found.

    `overrides` are from the command line, by dotted path; None values are options not given.
    `discovery` is the providers' table of well-known variables, used when no `providers` are
    configured. `provider_types` are the adapters there are; without them types are not judged.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    environ = dict(os.environ if environ is None else environ)
    return _load(Inputs(given, path, environ, cwd or Path.cwd(), discovery, provider_types))


def _load(inputs: Inputs) -> Loaded:
    stamps: dict[Path, Stamp | None] = {}
    try:
        return _read_all(inputs, stamps)
    except ConfigError as exc:
        exc.stamps = stamps
        raise


def _read_all(inputs: Inputs, stamps: dict[Path, Stamp | None]) -> Loaded:
    variables = _read_dotenv(inputs, stamps)
    dotenv_tree = env.layer(variables)
    environ_variables = env.from_environ(inputs.environ)
    environ_tree = env.layer(environ_variables)
    variables.update(environ_variables)
    path, file_tree = _read_config(inputs, variables, stamps)
    tree = file_tree
    for above in (dotenv_tree, environ_tree, _override_tree(inputs.overrides)):
        tree = overlay(tree, above)
    if "providers" not in tree.value:
        found = env.discovered(variables, inputs.discovery)
        if found is not None:
            tree.value["providers"] = found
    _drop_empty(tree)

    def read_secret(name: str) -> str:
        return _read_secret(inputs.cwd / name, stamps)

    result = _validate(tree, read_secret, inputs.provider_types)
    return Loaded(
        settings=result,
        origins=MappingProxyType(_origins(result, tree)),
        path=path,
        stamps=MappingProxyType(stamps),
        warnings=tuple(env.misspelt(variables)),
        inputs=inputs,
    )


# -- sources ------------------------------------------------------------------------------------


def _read_dotenv(inputs: Inputs, stamps: dict[Path, Stamp | None]) -> dict[str, env.Variable]:
    path = inputs.cwd / DOTENV
    stamps[path] = stamp(path)
    if not path.is_file():  # a folder of that name is somebody's virtual environment
        return {}
    return env.parse_dotenv(read_text(path, DOTENV), DOTENV)


def _read_config(
    inputs: Inputs, variables: Mapping[str, env.Variable], stamps: dict[Path, Stamp | None]
) -> tuple[Path | None, Node]:
    named = inputs.path
    if named is None and env.CONFIG_VARIABLE in variables:
        named = variables[env.CONFIG_VARIABLE].text or None
    candidates = [named] if named is not None else list(FILE_NAMES)
    for name in candidates:
        path = inputs.cwd / name
        stamps[path] = stamp(path)
        if named is None and not path.exists():
            continue
        tree = parse_file(read_text(path, name), name)
        problems: list[Problem] = []
        tree = env.expand(tree, variables, problems)
        if problems:
            raise ConfigError(problems)
        return path, tree
    return None, Node({}, Origin("default"))


def _override_tree(overrides: Mapping[str, Any]) -> Node:
    origin = Origin("command line")
    root = Node({}, origin)
    for key, value in overrides.items():
        graft(root, key.split("."), env.nodes(value, origin))
    return root


def _read_secret(path: Path, stamps: dict[Path, Stamp | None]) -> str:
    """Read a secret's file; the line end that editors add is not part of the secret."""
    stamps[path] = stamp(path)
    with path.open("rb") as file:
        data = file.read(1 << 18)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    text = text.rstrip("\r\n")
    if not text.strip():
        raise ValueError("it is empty")
    return text


# -- validation ---------------------------------------------------------------------------------


def _drop_empty(tree: Node, at: tuple[str | int, ...] = ()) -> None:
    """Treat `server:` with nothing below it as not given; a missing scalar stays an error."""
    if isinstance(tree.value, list):
        for index, node in enumerate(tree.value):
            _drop_empty(node, (*at, index))
    elif isinstance(tree.value, dict):
        for key, node in list(tree.value.items()):
            kind = kind_at((*at, key))
            if node.value is None and kind is not None and not kind.nullable:
                if kind.model is not None or kind.base in (list, dict):
                    del tree.value[key]
            else:
                _drop_empty(node, (*at, key))


def _validate(
    tree: Node, read_secret: Callable[[str], str], provider_types: Collection[str] | None
) -> Settings:
    try:
        result = Settings.model_validate(tree.plain(), context={"read_secret": read_secret})
    except ValidationError as exc:
        # `from None`: pydantic's own error knows the values.
        raise ConfigError(_problem(dict(each), tree) for each in exc.errors()) from None
    problems = [
        Problem(message, deepest(tree, path).origin.place, dotted(path))
        for path, message in disagreements(result, provider_types)
    ]
    if problems:
        raise ConfigError(problems)
    return result


_MESSAGES = {
    "missing": "is required",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "is too large",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text; put it in quotes if it looks like a number",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list",
    "dict_type": "must be a map",
    "model_type": "must be a map",
    "model_attributes_type": "must be a map",
    "too_short": "must have at least one entry",
}


def _problem(error: dict[str, Any], tree: Node) -> Problem:
    """Turn a finding of pydantic's into ours, with its place and the nearest known key."""
    path = tuple(step for step in error["loc"] if step != "[key]")
    kind = error["type"]
    node = deepest(tree, path)
    message = _MESSAGES.get(kind, error["msg"])
    if kind == "extra_forbidden":
        message = f"unknown key; {_meant(path)}"
    elif kind == "value_error":
        message = str(error["ctx"]["error"])
    elif message is error["msg"]:
        message = re.sub(r"^(Input|Tuple|String) should", "must", message)
    # Only numbers are repeated: any text may be a secret in the wrong place.
    if kind not in {"missing", "extra_forbidden"} and isinstance(node.value, int | float):
        message += f" (it is {_scalar(node.value)})"
    return Problem(message, node.origin.place, dotted(path))


def _scalar(value: float) -> str:
    return to_json(value, inf_nan_mode="strings").decode().strip('"')


def _meant(path: tuple[str | int, ...]) -> str:
    """Name the nearest key in the same section, or the section where such a key is known."""
    above = kind_at(path[:-1])
    name = str(path[-1])
    known = list(fields(above.model)) if above is not None and above.model is not None else []
    hint = suggest(name, known)
    if hint.startswith("known"):
        elsewhere = [each.path for each in settings() if each.path[-1] == name.lower()]
        if elsewhere:
            return f"did you mean `{dotted(elsewhere[0])}`?"
    return hint


# -- origins ------------------------------------------------------------------------------------


def _origins(result: Settings, tree: Node) -> dict[str, str]:
    found = {}
    for path, _ in leaves(result):
        node: Node | None = tree
        for step in path:
            node = node.child(step) if node is not None else None
        if node is None:
            found[dotted(path)] = "default"
        elif is_secret(path) and isinstance(node.value, dict):
            found[dotted(path)] = f"{node.origin} (file {node.value['file'].value})"
        else:
            found[dotted(path)] = str(node.origin)
    return found
