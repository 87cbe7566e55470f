"""Walk the schema: which settings there are, of which kind, and what stands at a path."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fastgw.config.schema import Section, Settings
from fastgw.config.tree import Path
from fastgw.domain import Secret


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value must be: `model` for a map with known keys, `item` for a list's elements.

    `base` is the Python type (str, int, float, bool, Secret, list, dict) or a Section.
    """

    base: type
    nullable: bool
    item: Kind | None = None
    choices: tuple[Any, ...] = ()

    @property
    def model(self) -> type[BaseModel] | None:
        """Give the section's class, if it is one."""
        return self.base if issubclass(self.base, BaseModel) else None


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting that can be given by itself, from the environment too."""

    path: tuple[str, ...]
    kind: Kind
    default: Any
    required: bool
    description: str

    @property
    def variable(self) -> str:
        """Give the name of its environment variable."""
        return variable(self.path)


def variable(path: Sequence[str]) -> str:
    """Give the environment variable of a setting's path."""
    return "FASTGW_" + "__".join(path).upper()


def kind_of(annotation: Any) -> Kind:
    """Read a field's annotation."""
    origin = get_origin(annotation)
    args = get_args(annotation)
    if origin is Annotated:
        return kind_of(args[0])
    if origin in (Union, types.UnionType):
        inner = [each for each in args if each is not type(None)]
        kind = kind_of(inner[0])
        return Kind(kind.base, len(inner) < len(args), kind.item, kind.choices)
    if origin is Literal:
        return Kind(type(args[0]), nullable=False, choices=args)
    if origin is tuple:
        return Kind(list, nullable=False, item=kind_of(args[0]))
    if origin is dict:
        return Kind(dict, nullable=False, item=kind_of(args[1]))
    return Kind(annotation, nullable=False)


_FIELDS: dict[type[BaseModel], dict[str, tuple[Kind, FieldInfo]]] = {}


def fields(model: type[BaseModel]) -> dict[str, tuple[Kind, FieldInfo]]:
    """Give a section's keys with their kinds."""
    if model not in _FIELDS:
        _FIELDS[model] = {
            name: (kind_of(info.annotation), info) for name, info in model.model_fields.items()
        }
    return _FIELDS[model]


def kind_at(path: Sequence[str | int]) -> Kind | None:
    """Give the kind of what stands at a path; None where the schema knows nothing."""
    kind: Kind | None = Kind(Settings, nullable=False)
    for step in path:
        if kind is None:
            return None
        if kind.model is not None:
            found = fields(kind.model).get(str(step))
            kind = found[0] if found else None
        else:
            kind = kind.item
    return kind


def is_secret(path: Sequence[str | int]) -> bool:
    """Tell whether a secret stands at a path."""
    kind = kind_at(path)
    return kind is not None and issubclass(kind.base, Secret)


def settings(
    model: type[BaseModel] = Settings, at: tuple[str, ...] = (), *, required: bool = True
) -> Iterator[Setting]:
    """Give all settings in the order of the schema, down to what is no section."""
    for name, (kind, info) in fields(model).items():
        path = (*at, name)
        if kind.model is not None:
            yield from settings(kind.model, path, required=required and not kind.nullable)
        else:
            needed = required and info.is_required()
            default = None if info.is_required() else info.get_default(call_default_factory=True)
            yield Setting(path, kind, default, needed, info.description or "")


def leaves(value: Any, at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Give all single values of settings with their paths; empty lists and maps count as such."""
    pairs: Iterable[tuple[str | int, Any]]
    if isinstance(value, Section):
        pairs = [(name, getattr(value, name)) for name in type(value).model_fields]
    elif isinstance(value, Mapping) and value:
        pairs = value.items()
    elif isinstance(value, tuple) and value:
        pairs = enumerate(value)
    else:
        yield at, value
        return
    for step, each in pairs:
        yield from leaves(each, (*at, step))
