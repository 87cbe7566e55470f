"""One folder per provider type: its record, credentials, errors and translators. Pure: no I/O.

Adding a type is adding a folder; the registry reads them all. Folders never import each other;
what several share stands in the modules beside them.
"""

from __future__ import annotations

import importlib
import pkgutil

from fastgw.providers.record import ProviderType

__all__ = ["ProviderType", "discovery", "registry"]


def _read_folders() -> dict[str, ProviderType]:
    found = {}
    for entry in pkgutil.iter_modules(__path__):
        if entry.ispkg:
            record: ProviderType = importlib.import_module(f"{__name__}.{entry.name}").RECORD
            found[record.name] = record
    return found


def discovery() -> dict[str, dict[str, str]]:
    """Give the well-known variables with the provider each one means, as configuration has it."""
    return {
        record.environment: {
            "name": record.name,
            "type": record.name,
            "api_key": f"${{{record.environment}}}",
        }
        for record in registry.values()
        if record.environment is not None
    }


registry: dict[str, ProviderType] = _read_folders()
"""Provider types by name."""
