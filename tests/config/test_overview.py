"""`config show` and `init`: what is in effect, what a new file says."""

from __future__ import annotations

import re

import pytest

from fastgw.config import Settings, init_text, show
from fastgw.config.overview import masked
from fastgw.domain import Secret


def test_show_masks_and_tells_origins(config):
    """Each value with its origin, each secret masked, nothing left out."""
    text = """\
providers:
  - name: openai
    type: openai
    api_key: "${OPENAI_API_KEY}"
    headers: {x-auth: "0123456789abcdefgh"}
database: {url: "postgresql://fastgw:hunter22hunter@db/fastgw?password=hunter33hunter"}
"""
    loaded = config.load(
        text, {"OPENAI_API_KEY": "sk-0123456789abcdef", "FASTGW_SERVER__PORT": "1"}
    )
    rows = {row.key: row for row in show(loaded)}
    assert rows["server.port"][1:] == ("1", "FASTGW_SERVER__PORT")
    assert rows["server.host"][1:] == ("127.0.0.1", "default")
    assert rows["redis.url"][1:] == ("null", "default")
    assert rows["server.listen"].value == "[]"
    assert rows["database.auto_migrate"].value == "true"
    assert rows["providers[0].api_key"][1:] == ("sk-…cdef", "fastgw.yaml:4 (${OPENAI_API_KEY})")
    assert rows["database.url"].value == "postgresql://fastgw:…@db/fastgw?…"
    everything = "\n".join(" ".join(row) for row in rows.values())
    for piece in ("0123456789", "hunter22", "hunter33"):
        assert piece not in everything
    assert list(loaded.origins) == list(rows)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///fastgw-data/fastgw.db", "sqlite:///fastgw-data/fastgw.db"),
        ("redis://:secretsecret@h:6379/0", "redis://:…@h:6379/0"),
        ("redis://user@h/0", "redis://user@h/0"),
        ("postgresql://u:p@ss/w@h/d", "postgresql://…"),
        ("rediss+sentinel://u:p@a:1,b:2/m", "rediss+sentinel://u:…@a:1,b:2/m"),
        ("short", "…"),
    ],
)
def test_masked_urls(url, shown):
    """Of a URL the parts that are no secret are told."""
    assert masked(Secret(url)) == shown


def test_new_file_loads(config):
    """What `init` writes means the defaults."""
    assert config.load(init_text()).settings == Settings()


def test_new_file_loads_uncommented(config):
    """Every commented setting and example in it holds."""
    text = re.sub(r"^#(?=\S|  )", "", init_text(), flags=re.MULTILINE)
    loaded = config.load(text, {"OPENAI_API_KEY": "sk-1"})
    settings = loaded.settings
    assert [each.name for each in settings.providers] == ["openai", "local"]
    assert settings.models[0].deployments[0].weight == 3
    assert settings.aliases[0].name == "best"
    assert settings.limits.defaults[0].limit == 600
    assert [str(each.multiplier) for each in settings.prices] == ["1.1", "None"]
    examples = ("providers", "models", "aliases", "limits", "prices")
    rest = settings.model_copy(update={name: getattr(Settings(), name) for name in examples})
    server = rest.server.model_copy(update={"tls": None})
    assert rest.model_copy(update={"server": server}) == Settings()


def test_new_file_names_every_section():
    """No section is left out of the new file."""
    for name in Settings.model_fields:
        assert re.search(rf"^{name}:$", init_text(), re.MULTILINE), name


def test_new_file_takes_single_lines(config):
    """Uncommenting one line is enough."""
    text = init_text().replace("#  port: 8080", "  port: 9000")
    assert config.load(text).settings.server.port == 9000
