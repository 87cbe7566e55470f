"""Write the commented `fastgw.yaml` of `fastgw init` and the `.env.example`, from the schema.

In both, `# ` begins an explanation, and `#` without a space, or with two, a setting with its
default: take the `#` away and it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from fastgw.config.environ import BARE, CONFIG_VARIABLE
from fastgw.config.overview import text_of
from fastgw.config.schema import Settings
from fastgw.config.shape import Kind, Setting, fields, settings
from fastgw.domain import Secret

_HEAD = """\
# fastgw configuration.
#
# A commented-out setting shows its default or an example: take the # away. `fastgw check` tests
# this file, `fastgw config show` tells what is in effect and where each value came from.
#
# ${NAME} reads the environment; every secret may be {file: /run/secrets/name}. Every setting can
# also be given as a variable: FASTGW_SERVER__PORT=9000. See .env.example.
"""

_EXAMPLES = {
    "providers": """\
# Accounts with providers. Without this list they are found from well-known variables such as
# OPENAI_API_KEY. base_url of OpenAI types includes /v1.
providers:
#  - name: openai
#    type: openai
#    api_key: ${OPENAI_API_KEY}
#    timeouts: {connect_s: 5, first_byte_s: 60, idle_s: 120, total_s: 600}
#  - name: local
#    type: openai_compatible
#    base_url: http://127.0.0.1:8000/v1
#    models: [small]
""",
    "models": """\
# Public model names and where they are served; more live in the database.
models:
#  - name: smart
#    deployments:
#      - {provider: openai, model: gpt-5, weight: 3}
#      - {provider: local, model: small, weight: 1}
#    fallbacks: []
""",
    "aliases": """\
# Other names for models.
aliases:
#  - {name: best, model: smart, tags: {}, billing_key_id: null}
""",
    "prices": """\
# Prices that differ from what is published: of a deployment, provider, team or key, from a date on.
prices:
#  - {scope: provider, match: eu-azure, model: "*", multiplier: 1.1, starts: 2026-12-01}
#  - {scope: key, match: key_1, model: small, usd_per_mtok: {input: 0.5, output: 2}}
""",
    "limits": """\
# Limits that apply where no other rule matches. scope: key, user, team, org, model, provider,
# global, tag:NAME; metric: requests, tokens, concurrent; algorithm: sliding_window, token_bucket.
limits:
#  defaults:
#    - {scope: key, match: "*", metric: requests, limit: 600, window_s: 60}
""",
}


def init_text() -> str:
    """Give the text of a new `fastgw.yaml`."""
    parts = [_HEAD]
    for name, (kind, info) in fields(Settings).items():
        if name in _EXAMPLES:
            parts.append(_EXAMPLES[name])
        elif kind.model is not None:
            title = (kind.model.__doc__ or info.description or name).split("\n")[0]
            lines = [f"# {title}", f"{name}:", *_section(kind.model, "#  ")]
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _section(model: type[BaseModel], indent: str) -> Iterator[str]:
    for name, (kind, info) in fields(model).items():
        if kind.model is None:
            default = info.get_default(call_default_factory=True)
            yield f"{indent}{name}: {_yaml(default)}  # {info.description}"
        elif kind.nullable:
            pairs = (
                f"{key}: {_sample(key, each)}" for key, (each, _) in fields(kind.model).items()
            )
            yield f"{indent}{name}: {{{', '.join(pairs)}}}  # {info.description}"
        else:
            yield f"{indent}{name}:"
            yield from _section(kind.model, indent + "  ")


def _sample(name: str, kind: Kind) -> str:
    return "null" if kind.nullable else f"/etc/fastgw/{name}.pem"


def _yaml(value: Any) -> str:
    text = value.reveal() if isinstance(value, Secret) else text_of(value)
    plain = not isinstance(value, str | Secret) or re.fullmatch(r"[A-Za-z0-9/][\w./:-]*", text)
    return text if plain else to_json(text).decode()


# -- .env.example -------------------------------------------------------------------------------

_ENV_HEAD = """\
# Every variable fastgw reads. Copy to .env beside the configuration, or set them in the
# environment, which goes before .env; both go before the configuration file.
# Lists and maps are JSON. An empty value unsets what may be unset. A secret can also be read from
# a file: FASTGW_SECURITY__MASTER_KEY__FILE=/run/secrets/master-key
"""
_BARE_NOTES = {
    "DATABASE_URL": "the same as FASTGW_DATABASE__URL, which goes before it",
    "REDIS_URL": "the same as FASTGW_REDIS__URL, which goes before it",
    "FASTGW_ADMIN_EMAIL": "the same as FASTGW_ADMIN__EMAIL",
    "FASTGW_ADMIN_PASSWORD": "the same as FASTGW_ADMIN__PASSWORD",
}


def env_example(well_known: Iterable[str] = ()) -> str:
    """Give the text of `.env.example`; `well_known` are the variables that providers go by."""
    lines = [_ENV_HEAD, f"# configuration file\n#{CONFIG_VARIABLE}=\n"]
    lines.append("# 1 uses the pure-Python build of the hot loops; from the environment only")
    lines.append("#FASTGW_PURE=\n")
    lines += [f"# {_BARE_NOTES[name]}\n#{name}=\n" for name in BARE]
    names = list(well_known)
    if names:
        lines.append("# credentials and addresses by which providers are found")
        lines += [f"#{name}=" for name in names]
        lines.append("")
    lines += [
        f"# {setting.path[0]}: {setting.description}\n#{setting.variable}={_text(setting)}\n"
        for setting in settings()
    ]
    return "\n".join(lines)


def _text(setting: Setting) -> str:
    if setting.default is None:
        return "" if setting.kind.nullable else _sample(setting.path[-1], setting.kind)
    if isinstance(setting.default, Secret):
        return setting.default.reveal()
    return text_of(setting.default)
