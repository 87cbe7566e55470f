"""The configuration: the only room that reads files and environment.

Sources are laid over one another (`loader`), checked against the schema (`schema`, `checks`) and
become one immutable snapshot, `Settings`, which is swapped whole.
"""

from __future__ import annotations

from fastgw.config.changes import Change, carry_over
from fastgw.config.environ import Discovery
from fastgw.config.errors import ConfigError, Problem
from fastgw.config.listen import Address, parse_address
from fastgw.config.loader import Loaded, load
from fastgw.config.overview import Row, show
from fastgw.config.schema import Settings
from fastgw.config.template import env_example, init_text
from fastgw.config.values import CLIENT_APIS, RESERVED
from fastgw.config.watch import Watcher

__all__ = [
    "CLIENT_APIS",
    "RESERVED",
    "Address",
    "Change",
    "ConfigError",
    "Discovery",
    "Loaded",
    "Problem",
    "Row",
    "Settings",
    "Watcher",
    "carry_over",
    "env_example",
    "init_text",
    "load",
    "parse_address",
    "show",
]
