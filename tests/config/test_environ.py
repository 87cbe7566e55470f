"""Every setting can be given as a variable, and a wrong variable is called by its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fastgw.config import env_example
from fastgw.config.shape import Setting, leaves, settings
from fastgw.domain import Secret

WELL_KNOWN = ("OPENAI_API_KEY",)
EXAMPLES: dict[str, tuple[str, Any]] = {
    "server.host": ("::1", "::1"),
    "server.listen": ('["a:1"]', ("a:1",)),
    "server.tls.cert": ("c.pem", "c.pem"),
    "server.tls.key": ("k.pem", "k.pem"),
    "database.url": ("sqlite:///x", Secret("sqlite:///x")),
    "journal.mode": ("none", "none"),
    "journal.full_at": ("0.5", 0.5),
    "redis.url": ("unix:///x", Secret("unix:///x")),
    "security.trusted_proxies": ('["::1"]', ("::1/128",)),
    "admin.listen": ("127.0.0.1:9", "127.0.0.1:9"),
    "keys.client_tags": ('["job"]', ("job",)),
    "metrics.tag_labels": ('["team"]', ("team",)),
    "catalog.sync_url": ("http://x/y?z=1", "http://x/y?z=1"),
    "catalog.sync_schedule": ("12h", "12h"),
    "routing.retry_budget": ("0.5", 0.5),
}
REQUIRED_BESIDE = {
    "server.tls.cert": {"FASTGW_SERVER__TLS__KEY": "k"},
    "server.tls.key": {"FASTGW_SERVER__TLS__CERT": "c"},
    "server.tls.client_ca": {"FASTGW_SERVER__TLS__KEY": "k", "FASTGW_SERVER__TLS__CERT": "c"},
}
LISTS = {
    "providers": '[{"name": "p", "type": "openai", "headers": {"x-a": "b"}}]',
    "models": '[{"name": "m", "deployments": [{"provider": "openai", "model": "x"}]}]',
    "aliases": '[{"name": "a", "model": "m", "tags": {"t": "v"}}]',
    "limits.defaults": '[{"scope": "global", "metric": "requests", "limit": 1}]',
}


def example(setting: Setting) -> tuple[str, Any]:
    """Give a text for the setting that differs from its default, and what it should become."""
    key, kind = ".".join(setting.path), setting.kind
    if key in EXAMPLES:
        return EXAMPLES[key]
    if kind.choices:
        other = next(each for each in kind.choices if each != setting.default)
        return other, other
    if setting.path[-1] == "enabled":
        return "false", False
    if kind.base is bool:
        return ("false" if setting.default else "true"), not setting.default
    if kind.base in (int, float):
        return "7", 7
    if kind.base is Secret:
        return "0123456789abcdef", Secret("0123456789abcdef")
    assert kind.base is str, f"{key} needs an example"
    return "some text", "some text"


@pytest.mark.parametrize("setting", list(settings()), ids=lambda each: ".".join(each.path))
def test_every_setting_from_the_environment(config, setting):
    """FASTGW_SECTION__KEY sets it, and `config show` will say so."""
    key = ".".join(setting.path)
    environ = {"OPENAI_API_KEY": "sk-1", **REQUIRED_BESIDE.get(key, {})}
    if key in LISTS:
        loaded = config.load(environ={**environ, setting.variable: LISTS[key]})
        assert (
            loaded.origins[f"{key}[0].{'scope' if 'limits' in key else 'name'}"] == setting.variable
        )
        return
    text, value = example(setting)
    loaded = config.load(environ={**environ, setting.variable: text})
    found: Any = loaded.settings
    for step in setting.path:
        found = getattr(found, step)
    assert found == value
    origin = loaded.origins.get(key) or loaded.origins[f"{key}[0]"]
    assert origin == setting.variable


def test_schema_is_covered():
    """The walk over the schema misses no section: it knows what the effective settings show."""
    from fastgw.config import Settings

    shown = {".".join(map(str, path)) for path, _ in leaves(Settings())}
    named = {".".join(setting.path) for setting in settings()}
    assert shown - named == {"server.tls"}
    assert {name for name in named - shown if not name.startswith("server.tls.")} == set()
    assert len(named) > 50


def test_sections_as_json(config):
    """A whole section may be one JSON object."""
    loaded = config.load(environ={"FASTGW_SERVER": '{"port": 1, "host": "a"}'})
    assert (loaded.settings.server.port, loaded.settings.server.host) == (1, "a")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("FASTGW_SERVER__PROT", "1", "there is no such setting; did you mean FASTGW_SERVER__PORT?"),
        ("FASTGW_SERVER__TLS__CRT", "1", "did you mean FASTGW_SERVER__TLS__CERT?"),
        ("FASTGW_ZZZ__QQQQQQ", "1", "no such setting"),
        ("FASTGW_SERVER__PORT", "http", "server.port: must be a whole number"),
        ("FASTGW_SERVER__PORT", "", "server.port: must be a whole number"),
        ("FASTGW_SERVER__PORT", "nan", "server.port: must be a whole number"),
        ("FASTGW_SERVER__HEADER_TIMEOUT_S", "nan", "server.header_timeout_s: must be "),
        ("FASTGW_SERVER__LISTEN", "a:1", "server.listen: must be a JSON list"),
        ("FASTGW_SERVER__LISTEN", "[1", "server.listen: must be a JSON list"),
        ("FASTGW_SERVER__LISTEN", "{}", "server.listen: must be a list"),
        ("FASTGW_SERVER", "x", "server: must be a JSON object"),
        ("FASTGW_MODELS", '[{"name": "a"}]', "models[0].deployments: is required"),
        ("FASTGW_SERVER__HOST", "\udcff", "server.host: is not UTF-8"),
        ("DATABASE_URL", "mysql://x", "database.url: must be a URL"),
        ("FASTGW_SECURITY__MASTER_KEY__FILE", "nowhere", "cannot read nowhere"),
    ],
)
def test_wrong_variables_are_named(config, name, text, said):
    """The error begins with the variable's name."""
    told = config.refused(environ={name: text})
    assert told.startswith(f"{name}: ")
    assert said in told


def test_wrong_dotenv_line_is_named(config):
    """A setting in `.env` is named with its line; so is a line that is none."""
    config.write("# note\n\nFASTGW_SERVER__PORT=x\n", ".env")
    assert config.refused() == (".env:3: FASTGW_SERVER__PORT: server.port: must be a whole number")
    config.write("A=1\nwhat is this\n", ".env")
    assert config.refused() == ".env:2: must be NAME=value"


def test_kubernetes_variables_do_no_harm(config):
    """A service called fastgw makes Kubernetes set these in every pod."""
    environ = {
        "FASTGW_PORT": "tcp://10.0.0.1:80",
        "FASTGW_SERVICE_HOST": "10.0.0.1",
        "FASTGW_SERVICE_PORT": "80",
        "FASTGW_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    loaded = config.load(environ=environ)
    assert loaded.settings.server.port == 8080
    assert loaded.warnings == ()


def test_misspelt_plain_variable_warns(config):
    """A near miss without `__` cannot be refused, but it is told."""
    loaded = config.load(environ={"FASTGW_PROVIDRES": "[]"})
    assert loaded.warnings == ("FASTGW_PROVIDRES: not a setting; did you mean FASTGW_PROVIDERS?",)


def test_dotenv_forms(config):
    """Quotes, export, comments, CRLF, a byte-order mark: as other tools write `.env`."""
    lines = [
        "export FASTGW_SERVER__HOST=a  # comment",
        "FASTGW_ADMIN__EMAIL = 'x # y'   # comment",
        'FASTGW_JOURNAL__DIR="a \\"b\\" \\$c"',
        "REDIS_URL=redis://h/0#frag",
        "FASTGW_LOGS__LEVEL=",
        "FASTGW_LOGS__LEVEL=debug # last counts",
        "   # indented comment",
        "OTHER=$(not run) `at all`",
    ]
    config.write(b"\xef\xbb\xbf" + "\r\n".join(lines).encode(), ".env")
    settings_ = config.load().settings
    assert settings_.server.host == "a"
    assert settings_.admin.email == "x # y"
    assert settings_.journal.dir == 'a "b" $c'
    assert settings_.redis.url == Secret("redis://h/0#frag")
    assert settings_.logs.level == "debug"


def test_json_in_a_secret_is_text(config):
    """A secret that begins with a brace is not lost."""
    environ = {"FASTGW_SECURITY__MASTER_KEY": "{0123456789abcdef"}
    assert config.load(environ=environ).settings.security.master_key == Secret("{0123456789abcdef")


# -- .env.example -------------------------------------------------------------------------------


def test_example_file_is_current():
    """The file in the repository is what the schema gives."""
    text = (Path(__file__).parents[2] / ".env.example").read_text()
    assert text == env_example(WELL_KNOWN)


def test_example_lists_every_setting():
    """Every setting of the schema has its line, once."""
    named = re.findall(r"^#([A-Z][A-Z0-9_]*)=", env_example(), re.MULTILINE)
    assert len(named) == len(set(named))
    assert {setting.variable for setting in settings()} <= set(named)


def test_example_holds_when_uncommented(config):
    """Every example is a value that its setting takes, and it is the default."""
    plain = config.load().settings
    text = re.sub(r"^#(?=[A-Z])", "", env_example(WELL_KNOWN), flags=re.MULTILINE)
    text = re.sub(r"^FASTGW_SERVER__TLS__.*\n", "", text, flags=re.MULTILINE)
    config.write(text, ".env")
    assert config.load().settings == plain
