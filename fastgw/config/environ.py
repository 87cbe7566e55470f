"""Settings from the environment and from a `.env` file; finding providers by known variables.

The process environment itself is read by the loader only; here it is a mapping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from fastgw.config.errors import ConfigError, Problem, nearest
from fastgw.config.schema import Settings
from fastgw.config.shape import Kind, fields, kind_at, settings
from fastgw.config.tree import Node, Origin, dotted, graft
from fastgw.domain import Secret

PREFIX = "FASTGW_"
BARE = {
    "DATABASE_URL": ("database", "url"),
    "REDIS_URL": ("redis", "url"),
    "FASTGW_ADMIN_EMAIL": ("admin", "email"),
    "FASTGW_ADMIN_PASSWORD": ("admin", "password"),
}
"""Variables that other tools set too, or that the first start asks for, with their setting."""
CONFIG_VARIABLE = "FASTGW_CONFIG"

Discovery = Mapping[str, Mapping[str, Any]]
"""A well-known variable and the provider it means, written as in a configuration file, with
`${VARIABLE}` where its value belongs: {"OPENAI_API_KEY": {"name": "openai", "type": "openai",
"api_key": "${OPENAI_API_KEY}", "base_url": "${OPENAI_BASE_URL}"}}. A field whose variable is not
set is left out. `default_port` completes a base_url that names a host only."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable's text and where it was set: itself, or a line of `.env`."""

    text: str
    place: str


_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_LINE = re.compile(
    rf"""\s*(?:export\s+)?({_NAME})\s*=[ \t]*
    (?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s'"][^\r\n]*?)?)
    \s*(?:(?<=\s)\#.*)?""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def parse_dotenv(text: str, label: str) -> dict[str, Variable]:
    """Read `NAME=value` lines: quotes, `export`, comments; the last of a name counts."""
    found: dict[str, Variable] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigError.single("must be NAME=value", place=f"{label}:{number}")
        name, double, single, bare = match.groups()
        if double is not None:
            value = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), double)
        elif single is not None:
            value = single
        else:
            value = re.sub(r"(^|\s+)#.*", "", bare or "").rstrip()
        found[name] = Variable(value, f"{label}:{number}: {name}")
    return found


def from_environ(environ: Mapping[str, str]) -> dict[str, Variable]:
    """Take the process environment."""
    return {name: Variable(text, name) for name, text in environ.items()}


def layer(variables: Mapping[str, Variable]) -> Node:
    """Give the tree of all settings that the variables hold; ConfigError lists every fault."""
    root = Node({}, Origin("environment"))
    problems: list[Problem] = []
    # Bare names come first, so that FASTGW_DATABASE__URL goes before DATABASE_URL.
    for name in sorted(variables, key=lambda each: (each not in BARE, each)):
        given = variables[name]
        path: tuple[str, ...] | None = BARE.get(name)
        if path is not None and not given.text:
            continue  # `REDIS_URL=` is how composed environments say "none"
        if path is None:
            if not name.startswith(PREFIX) or name == CONFIG_VARIABLE:
                continue
            path = _path(name)
            if path is None:
                if "__" in name:
                    problems.append(Problem(_unknown(name), given.place))
                continue
        try:
            graft(root, path, _value(given, path))
        except ValueError as exc:
            problems.append(Problem(str(exc), given.place, dotted(path)))
    if problems:
        raise ConfigError(problems)
    return root


def _path(name: str) -> tuple[str, ...] | None:
    """Give the setting a variable names. `..._FILE` below a secret is its `{file: ...}`."""
    path = tuple(name.removeprefix(PREFIX).lower().split("__"))
    if not name.isupper():
        return None
    if kind_at(path) is not None:
        return path
    above = kind_at(path[:-1])
    is_file = path[-1] == "file" and above is not None and issubclass(above.base, Secret)
    return path if is_file else None


def _unknown(name: str) -> str:
    close = nearest(name, known_variables())
    return f"there is no such setting; did you mean {close}?" if close else "no such setting"


def known_variables() -> list[str]:
    """Name every variable that is a setting."""
    return [*(setting.variable for setting in settings()), *BARE, CONFIG_VARIABLE]


def misspelt(variables: Mapping[str, Variable]) -> list[str]:
    """Warn of FASTGW_ variables without `__` that are nearly one of ours.

    They cannot be refused: Kubernetes sets FASTGW_PORT and others for a service called fastgw.
    """
    lists = (name for name, (kind, _) in fields(Settings).items() if kind.base is list)
    known = [PREFIX + name.upper() for name in lists]
    known += [name for name in (*BARE, CONFIG_VARIABLE) if name.startswith(PREFIX)]
    suffixes = [name.removeprefix(PREFIX) for name in known]
    warnings = []
    for name, given in variables.items():
        if not name.startswith(PREFIX) or "__" in name or name in known:
            continue
        close = nearest(name.removeprefix(PREFIX), suffixes)
        if close:
            warnings.append(f"{given.place}: not a setting; did you mean {PREFIX}{close}?")
    return warnings


def _value(given: Variable, path: tuple[str, ...]) -> Node:
    """Read a variable's text as its setting's kind: JSON for lists and maps, else the text."""
    try:
        given.text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    origin = Origin(given.place)
    kind = kind_at(path)
    if kind is None:
        return Node(given.text, origin)
    if kind.nullable and not given.text:
        return Node(None, origin)
    is_map = kind.model is not None or issubclass(kind.base, dict)
    secret_file = issubclass(kind.base, Secret) and given.text.startswith("{")
    if is_map or secret_file or issubclass(kind.base, list):
        return _json(given.text, kind, origin)
    return Node(given.text, origin)


def _json(text: str, kind: Kind, origin: Origin) -> Node:
    expected = "list" if issubclass(kind.base, list) else "object"
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError:
        if issubclass(kind.base, Secret):
            return Node(text, origin)  # a secret may begin with a brace
        raise ValueError(f"must be a JSON {expected}") from None
    return nodes(value, origin)


def nodes(value: Any, origin: Origin) -> Node:
    """Give plain values as nodes of one origin."""
    if isinstance(value, Mapping):
        return Node({str(key): nodes(each, origin) for key, each in value.items()}, origin)
    if isinstance(value, list | tuple):
        return Node([nodes(each, origin) for each in value], origin)
    return Node(value, origin)


# -- ${VAR} -------------------------------------------------------------------------------------

_REFERENCE = re.compile(rf"\$\$\{{|\$\{{({_NAME})\}}|\$\{{")


def expand(
    node: Node, variables: Mapping[str, Variable], problems: list[Problem], at: tuple[Any, ...] = ()
) -> Node:
    """Give the tree with every `${VAR}` replaced by the variable's text; `$${` stands for `${`."""
    if isinstance(node.value, dict):
        return Node(
            {
                key: expand(each, variables, problems, (*at, key))
                for key, each in node.value.items()
            },
            node.origin,
        )
    if isinstance(node.value, list):
        return Node(
            [
                expand(each, variables, problems, (*at, index))
                for index, each in enumerate(node.value)
            ],
            node.origin,
        )
    if not isinstance(node.value, str) or "${" not in node.value:
        return node
    return _expand_text(node, variables, problems, at)


def _expand_text(
    node: Node, variables: Mapping[str, Variable], problems: list[Problem], at: tuple[Any, ...]
) -> Node:
    used: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name = match[1]
        if name is None:
            text = "`${` must be followed by a variable's name and `}`; write `$${` for itself"
            problems.append(Problem(text, node.origin.place, dotted(at)))
            return ""
        if name not in variables:
            close = nearest(name, variables)
            hint = f"; did you mean ${{{close}}}?" if close else ""
            problems.append(Problem(f"${{{name}}} is not set{hint}", node.origin.place, dotted(at)))
            return ""
        used.append(name)
        return variables[name].text

    text = _REFERENCE.sub(replace, node.value)
    return Node(text, Origin(node.origin.place, ", ".join(used)))


def discovered(variables: Mapping[str, Variable], known: Discovery) -> Node | None:
    """Give the providers that well-known variables speak of, in the order of the table."""
    found: list[Node] = []
    for name, record in known.items():
        given = variables.get(name)
        if given is None or not given.text.strip():
            continue
        fields = {key: value for key, value in record.items() if key != "default_port"}
        entry = {}
        for key, value in fields.items():
            problems: list[Problem] = []
            node = expand(nodes(value, Origin(given.place)), variables, problems)
            if not problems:  # what needs a variable that is not set is left to the type
                entry[key] = Node(node.value, Origin(given.place))
        if "base_url" in entry:
            text = _complete_url(entry["base_url"].value, record.get("default_port"))
            entry["base_url"] = Node(text, entry["base_url"].origin)
        found.append(Node(entry, Origin(given.place)))
    return Node(found, Origin("environment")) if found else None


def _complete_url(text: str, port: int | None) -> str:
    """Make a URL of what OLLAMA_HOST and its like may hold: `host`, `host:port` or a URL."""
    if "://" in text:
        return text
    text = text.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - an address to listen on, not to ask
    host, slash, path = text.partition("/")
    if port is not None and not re.search(r":[0-9]+$", host):
        host = f"{host}:{port}"
    return f"http://{host}{slash}{path}"
