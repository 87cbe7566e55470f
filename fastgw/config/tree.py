"""Values together with where they stand, so that every fault and every setting has an origin.

Files, environment and command line are all read into trees of nodes; the trees are laid over one
another; only then the plain values are validated. Pure data, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was given: `fastgw.yaml:12`, `FASTGW_SERVER__PORT`, `command line`.

    `through` names the variable whose value a `${VAR}` was replaced by.
    """

    place: str
    through: str = ""

    def __str__(self) -> str:
        return f"{self.place} (${{{self.through}}})" if self.through else self.place


@dataclass(slots=True)
class Node:
    """A scalar, a dict of nodes or a list of nodes. A map entry's origin is that of its key."""

    value: Any
    origin: Origin

    def child(self, step: str | int) -> Node | None:
        """Give the entry called `step`, or the element with that index."""
        value = self.value
        if isinstance(value, dict):
            found: Node | None = value.get(step)
            return found
        if isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
            element: Node = value[step]
            return element
        return None

    def plain(self) -> Any:
        """Give the value without origins."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def overlay(lower: Node, upper: Node) -> Node:
    """Lay one tree over another: maps join, anything else of the upper replaces."""
    if not (isinstance(lower.value, dict) and isinstance(upper.value, dict)):
        return upper
    joined = dict(lower.value)
    for key, node in upper.value.items():
        joined[key] = overlay(joined[key], node) if key in joined else node
    return Node(joined, upper.origin)


def deepest(root: Node, path: Sequence[str | int]) -> Node:
    """Give the node at `path`, or the last one on the way there."""
    node = root
    for step in path:
        below = node.child(step)
        if below is None:
            break
        node = below
    return node


def graft(root: Node, path: Sequence[str], node: Node) -> None:
    """Put `node` at `path`, making the maps on the way; what stands there is replaced or joined."""
    for step in path[:-1]:
        below = root.value.get(step)
        if below is None or not isinstance(below.value, dict):
            below = root.value[step] = Node({}, node.origin)
        root = below
    last = path[-1]
    root.value[last] = overlay(root.value[last], node) if last in root.value else node


def dotted(path: Sequence[str | int]) -> str:
    """Write a path as users do: `models[0].deployments[1].provider`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text
