"""How a `domain.Secret` is read from a configuration and handed over, without ever being shown.

A secret is given as text or as `{file: path}`. It is serialised masked, except in the hand-over to
a worker process, which asks for it by `context={"reveal": True}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, SerializationInfo, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fastgw.domain import Secret

ReadSecret = Callable[[str], str]
"""Reads the file of a `{file: path}` secret; raises OSError or ValueError."""

REVEAL = {"reveal": True}
LARGEST = 65536
"""Characters in a secret; a service account's JSON key has about 2,400."""


def _fault(message: str) -> PydanticCustomError:
    # The message is a template to pydantic: braces in a file's name must not be read as fields.
    return PydanticCustomError("secret", "{message}", {"message": message})


def _read(value: Any, info: ValidationInfo) -> Secret:
    if isinstance(value, Secret):
        value = value.reveal()
    elif isinstance(value, Mapping):
        value = _read_file(value, info)
    if not isinstance(value, str):
        raise _fault("must be text (in quotes if it looks like a number) or {file: path}")
    if not value.strip():
        raise _fault("is empty")
    if len(value) > LARGEST:
        raise _fault(f"is longer than {LARGEST} characters")
    if "\0" in value:
        raise _fault("has a NUL character in it")
    return Secret(value)


def _read_file(value: Mapping[Any, Any], info: ValidationInfo) -> str:
    path = value.get("file")
    if set(value) != {"file"} or not isinstance(path, str) or not path:
        raise _fault("must be text or {file: path}")
    read: ReadSecret | None = (info.context or {}).get("read_secret")
    if read is None:
        raise _fault("{file: path} is read by the loader only")
    try:
        return read(path)
    except OSError as exc:
        raise _fault(f"cannot read {path}: {exc.strerror or exc}") from None
    except ValueError as exc:
        raise _fault(f"cannot use {path}: {exc}") from None


def _write(secret: Secret, info: SerializationInfo) -> str:
    context = info.context
    if isinstance(context, Mapping) and context.get("reveal") is True:
        return secret.reveal()
    return secret.masked()


class _SecretSchema:
    """Tells pydantic how to treat a Secret, so that the domain need not know of pydantic."""

    @classmethod
    def __get_pydantic_core_schema__(
        cls, _source: Any, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            _read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _write, info_arg=True, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )


SecretText = Annotated[Secret, _SecretSchema]
