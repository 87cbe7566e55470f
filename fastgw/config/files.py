"""Read YAML and TOML into nodes that know their line.

YAML is taken from the parser's events, never through a constructor: no tag can make an object, a
repeated key is seen, and what aliases multiply into is counted. Plain scalars are read by the
YAML 1.2 core schema, so `no` is a word, `1:30` is text and `2025-04-01` is no date, as in TOML.
"""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml

from fastgw.config.errors import ConfigError
from fastgw.config.tree import Node, Origin

LARGEST_FILE = 4 << 20
"""Bytes; past that a configuration belongs in the database, and parsing would take seconds."""
LARGEST_TREE = 200_000
"""Nodes, counting each use of an alias: a file of a few lines can ask for billions."""
DEEPEST = 32

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}
_CORE_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq")}


def read_text(path: FilePath, label: str) -> str:
    """Read a file as UTF-8, a byte-order mark aside; errors name the file."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as exc:
        raise ConfigError.single(f"cannot be read: {exc.strerror or exc}", place=label) from None
    if len(data) > LARGEST_FILE:
        text = f"is larger than {LARGEST_FILE >> 20} MiB; keep models and keys in the database"
        raise ConfigError.single(text, place=label)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError.single("is not UTF-8", place=f"{label}:{line}") from None


def parse_file(text: str, label: str) -> Node:
    """Read a configuration file's text; TOML by its name's ending, else YAML."""
    root = _parse_toml(text, label) if label.endswith(".toml") else _YAMLReader(label).read(text)
    if root.value is None:
        return Node({}, root.origin)
    if not isinstance(root.value, dict):
        kind = "list" if isinstance(root.value, list) else "single value"
        text = f"must be a map of sections such as `server:`, not a {kind}"
        raise ConfigError.single(text, place=str(root.origin))
    return root


# -- YAML ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """A map or list that is being read; `key` waits for its value."""

    node: Node
    line: int
    anchor: str | None
    started: int
    height: int = 0
    key: str | None = None
    key_line: int = 0
    merged: list[Node] = field(default_factory=list)


class _Anchor(NamedTuple):
    """What an alias stands for, with the nodes in it and how deep they nest."""

    node: Node
    size: int
    height: int


class _YAMLReader:
    """Builds nodes from the events of one document, without recursion."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchor] = {}
        self._count = 0
        self._documents = 0
        self._root: Node | None = None

    def read(self, text: str) -> Node:
        """Give the document's root node; an empty file is an empty map."""
        try:
            for event in yaml.parse(text, Loader=_Loader):
                self._take(event)
        except yaml.YAMLError as exc:
            raise self._syntax_error(exc, text) from None
        return self._root or Node({}, Origin(self._label))

    def _fail(self, line: int, message: str, key: str = "") -> ConfigError:
        return ConfigError.single(message, place=f"{self._label}:{line}", key=key)

    def _syntax_error(self, exc: yaml.YAMLError, text: str) -> ConfigError:
        mark = getattr(exc, "problem_mark", None)
        if mark is not None:
            problem = getattr(exc, "problem", None) or "is not YAML"
            # Past the end of the text there is no such line.
            written = "".join(text.split("\n", mark.line + 1)[mark.line : mark.line + 1])
            indent = written[: len(written) - len(written.lstrip())]
            hint = "; indent with spaces, not tabs" if "\t" in indent else ""
            return self._fail(mark.line + 1, f"not valid YAML: {problem}{hint}")
        # A reader error knows only the position of a character that YAML does not allow.
        line = text.count("\n", 0, getattr(exc, "position", 0)) + 1
        return self._fail(line, "not valid YAML: a control character")

    def _take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor or "", line)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._start(event, line)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._end()
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._fail(line, "a second document begins here; there may be one only")

    def _grow(self, by: int, line: int) -> None:
        self._count += by
        if self._count > LARGEST_TREE:
            raise self._fail(line, f"more than {LARGEST_TREE} values, aliases multiplied out")

    def _check_tag(self, tag: str | None, line: int) -> None:
        if tag is not None and tag not in _CORE_TAGS and tag != "!":
            raise self._fail(line, f"the tag {tag} is not allowed here")

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        self._check_tag(event.tag, line)
        top = self._open[-1] if self._open else None
        if top and isinstance(top.node.value, dict) and top.key is None:
            self._key(top, event.value, line)
            return
        self._grow(1, line)
        plain = bool(event.implicit[0]) and event.tag is None
        node = Node(_core(event.value) if plain else event.value, self._origin(line))
        self._place(_Anchor(node, 1, 0), event.anchor, line)

    def _key(self, top: _Open, key: str, line: int) -> None:
        if key in top.node.value:
            first = top.node.value[key].origin
            raise self._fail(line, f"given twice, first at {first}", key)
        top.key, top.key_line = key, line

    def _origin(self, line: int) -> Origin:
        return Origin(f"{self._label}:{line}")

    def _alias(self, name: str, line: int) -> None:
        if name not in self._anchors:
            raise self._fail(line, f"*{name} is used before &{name} is complete")
        self._grow(self._anchors[name].size, line)
        self._place(self._anchors[name], None, line)

    def _start(self, event: Any, line: int) -> None:
        self._check_tag(event.tag, line)
        self._grow(1, line)
        self._check_depth(0, line)
        top = self._open[-1] if self._open else None
        if top and isinstance(top.node.value, dict) and top.key is None:
            raise self._fail(line, "a key must be text")
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        opened = _Open(Node(value, self._origin(line)), line, event.anchor, self._count)
        self._open.append(opened)

    def _check_depth(self, height: int, line: int) -> None:
        if len(self._open) + height >= DEEPEST:
            raise self._fail(line, f"nested deeper than {DEEPEST}")

    def _end(self) -> None:
        done = self._open.pop()
        for source in done.merged:
            for key, node in source.value.items():
                done.node.value.setdefault(key, node)
        size = self._count - done.started + 1
        self._place(_Anchor(done.node, size, done.height), done.anchor, done.line)

    def _place(self, done: _Anchor, anchor: str | None, line: int) -> None:
        """Put a complete node where it belongs."""
        if anchor is not None:
            self._anchors[anchor] = done
        if not self._open:
            self._root = done.node
            return
        self._check_depth(done.height, line)
        top = self._open[-1]
        top.height = max(top.height, done.height + 1)
        if isinstance(top.node.value, list):
            top.node.value.append(done.node)
        elif top.key == "<<":
            top.key = None
            top.merged.extend(self._merge_sources(done.node, line))
        elif top.key is not None:
            top.node.value[top.key] = Node(done.node.value, self._origin(top.key_line))
            top.key = None
        else:
            raise self._fail(line, "a key must be text")

    def _merge_sources(self, node: Node, line: int) -> Iterator[Node]:
        sources = node.value if isinstance(node.value, list) else [node]
        for source in sources:
            if not isinstance(source.value, dict):
                raise self._fail(line, "<< merges maps only")
            yield source


def _core(text: str) -> Any:
    """Read a plain scalar by the YAML 1.2 core schema (§10.3.2), decimal numbers only."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text) if len(text) < 40 else text
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


# -- TOML ---------------------------------------------------------------------------------------

_TOML_AT = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")
_HEADER = re.compile(r"\s*(\[\[?)([^\[\]]+)\]\]?\s*(?:#.*)?$")
_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY_PART = re.compile(_PART)
_KEY = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")


def _parse_toml(text: str, label: str) -> Node:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        message = str(exc)
        at = _TOML_AT.search(message)
        line = int(at[1]) if at and at[1] else text.count("\n") + 1
        message = _TOML_AT.sub("", message)
        raise ConfigError.single(f"not valid TOML: {message}", place=f"{label}:{line}") from None
    except RecursionError:
        raise ConfigError.single(f"nested deeper than {DEEPEST}", place=label) from None
    return _toml_node(values, (), _toml_lines(text), 1, label)


def _toml_node(
    value: Any, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int],
    line: int, label: str,
) -> Node:  # fmt: skip
    """Give a value its line, that of what holds it when the locator has not seen it."""
    line = lines.get(path, line)
    if len(path) > DEEPEST:
        raise ConfigError.single(f"nested deeper than {DEEPEST}", place=f"{label}:{line}")
    if isinstance(value, dict):
        value = {
            key: _toml_node(each, (*path, key), lines, line, label) for key, each in value.items()
        }
    elif isinstance(value, list):
        value = [
            _toml_node(each, (*path, index), lines, line, label) for index, each in enumerate(value)
        ]
    elif isinstance(value, dt.date | dt.time):
        value = value.isoformat()
    return Node(value, Origin(f"{label}:{line}"))


def _toml_lines(text: str) -> dict[tuple[str | int, ...], int]:
    """Find the line of each table header and key. Keys inside one-line tables share their line."""
    lines: dict[tuple[str | int, ...], int] = {}
    counts: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    quote = ""  # the delimiter of the multi-line string we are in
    for number, line in enumerate(text.split("\n"), 1):
        if quote:
            quote = "" if line.count(quote) % 2 else quote
            continue
        if header := _HEADER.match(line):
            table = _toml_table(_parts(header[2]), array=header[1] == "[[", counts=counts)
            lines.setdefault(table, number)
            if header[1] == "[[":
                lines.setdefault(table[:-1], number)
            continue
        if key := _KEY.match(line):
            path = table
            for part in _parts(key[1]):
                path = (*path, part)
                lines.setdefault(path, number)
        quote = next((each for each in ('"""', "'''") if line.count(each) % 2), "")
    return lines


def _parts(dotted_key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _KEY_PART.findall(dotted_key))


def _toml_table(
    parts: tuple[str, ...], *, array: bool, counts: dict[tuple[str | int, ...], int]
) -> tuple[str | int, ...]:
    """Resolve a header to a path: a name of an array of tables means its last element."""
    path: tuple[str | int, ...] = ()
    for position, part in enumerate(parts):
        path = (*path, part)
        if array and position == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path
