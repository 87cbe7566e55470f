"""YAML and TOML become the same settings, and no file can hang, exhaust or fool the reader."""

from __future__ import annotations

import pytest

from fastgw.config import Settings

YAML = """\
server:
  host: 0.0.0.0
  port: 9000
  listen: ["[::1]:8080", "unix:/run/fastgw.sock"]
  drain_delay_s: 1.5
logs: {requests: true}
providers:
  - name: openai
    type: openai
    api_key: "sk-0123456789abcdef"
    timeouts: {connect_s: 1}
    headers: {x-team: "ü"}
  - name: eu
    type: azure
    base_url: https://x.openai.azure.com
    api_version: 2025-04-01
models:
  - name: smart
    deployments:
      - {provider: openai, model: gpt-5, weight: 3}
      - {provider: eu, model: gpt5-prod}
    fallbacks: [other]
  - name: other
    deployments: [{provider: openai, model: gpt-4o}]
aliases:
  - {name: best, model: smart, tags: {team: a}}
limits:
  defaults:
    - {scope: "tag:team", metric: tokens, limit: 100000, window_s: 60}
"""
TOML = """\
[server]
host = "0.0.0.0"
port = 9_000
listen = ["[::1]:8080", "unix:/run/fastgw.sock"]
drain_delay_s = 1.5
[logs]
requests = true
[[providers]]
name = "openai"
type = "openai"
api_key = "sk-0123456789abcdef"
timeouts.connect_s = 1
[providers.headers]
x-team = "ü"
[[providers]]
name = "eu"
type = "azure"
base_url = "https://x.openai.azure.com"
api_version = 2025-04-01
[[models]]
name = "smart"
fallbacks = ["other"]
[[models.deployments]]
provider = "openai"
model = "gpt-5"
weight = 3
[[models.deployments]]
provider = "eu"
model = "gpt5-prod"
[[models]]
name = "other"
deployments = [{provider = "openai", model = "gpt-4o"}]
[[aliases]]
name = "best"
model = "smart"
tags = {team = "a"}
[[limits.defaults]]
scope = "tag:team"
metric = "tokens"
limit = 100000
window_s = 60
"""


def test_yaml_and_toml_agree(config):
    """The same configuration in both languages gives equal settings."""
    from_yaml = config.load(YAML).settings
    config.write(TOML, "fastgw.toml")
    from_toml = config.load(path="fastgw.toml").settings
    assert from_yaml == from_toml
    assert from_yaml.providers[1].api_version == "2025-04-01"


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "server:\nmodels:\n", "{}"])
def test_empty_yaml(config, text):
    """An empty file, and sections with nothing in them, mean the defaults."""
    assert config.load(text).settings == Settings()


def test_empty_toml(config):
    """An empty TOML file means the defaults."""
    config.write("", "fastgw.toml")
    assert config.load().settings == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- server\n", "fastgw.yaml:1: must be a map of sections such as `server:`, not a list"),
        ("server\n", "fastgw.yaml:1: must be a map of sections such as `server:`, not a single v"),
        ("server: {}\nserver: {}\n", "fastgw.yaml:2: server: given twice, first at fastgw.yaml:1"),
        ("server:\n  port: 1\n  port: 2\n", "fastgw.yaml:3: port: given twice"),
        ("server:\n\tport: 1\n", "fastgw.yaml:2: not valid YAML"),
        ("server: {port: 1\n", "fastgw.yaml:2: not valid YAML"),
        ("server: 'x\n", "fastgw.yaml:2: not valid YAML"),
        ("a: b: c\n", "fastgw.yaml:1: not valid YAML: mapping values are not allowed"),
        ("\n\nserver: \x07\n", "fastgw.yaml:3: not valid YAML: a control character"),
        ("a: 1\n---\nb: 2\n", "fastgw.yaml:2: a second document begins here"),
        ("server: !!python/object/apply:os.system [ls]\n", "fastgw.yaml:1: the tag tag:yaml.org"),
        ("server: !env X\n", "fastgw.yaml:1: the tag !env is not allowed"),
        ("? [a]\n: 1\n", "fastgw.yaml:1: a key must be text"),
        ("server: *x\n", "fastgw.yaml:1: "),
        ("server: &x {a: *x}\n", "fastgw.yaml:1: "),
        ("<<: [1]\n", "fastgw.yaml:1: << merges maps only"),
    ],
)
def test_yaml_that_is_refused(config, text, said):
    """Broken, ambiguous or clever YAML is refused with its line."""
    assert config.refused(text).startswith(said)


def test_tabs_are_explained(config):
    """The commonest fault of all is called by its name."""
    assert "indent with spaces, not tabs" in config.refused("server:\n\tport: 1\n")


def test_second_of_a_nested_key(config):
    """A repeated key deep inside is found too."""
    text = YAML.replace("model: gpt-5, weight: 3", "model: gpt-5, model: gpt-6")
    assert "fastgw.yaml:20: model: given twice" in config.refused(text)


def test_anchors_and_merges(config):
    """Anchors, aliases and `<<` work; keys written out go before merged ones."""
    text = """\
providers:
  - &base {name: a, type: openai, timeouts: &t {connect_s: 1, idle_s: 2}}
  - {<<: *base, name: b, timeouts: {<<: *t, idle_s: 3}}
"""
    first, second = config.load(text).settings.providers
    assert (first.name, second.name, second.type) == ("a", "b", "openai")
    assert (second.timeouts.connect_s, second.timeouts.idle_s) == (1, 3)


def test_expanding_a_shared_value_once(config):
    """A value used through an alias is not expanded twice."""
    text = "admin: {email: &a '$${X}', password: *a}\n"
    settings = config.load(text).settings
    assert settings.admin.email == "${X}"
    assert settings.admin.password.reveal() == "${X}"


def test_billion_laughs(config):
    """Aliases of aliases are counted as what they multiply into."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "more than 200000 values, aliases multiplied out" in config.refused("\n".join(lines))


def test_deep_nesting(config):
    """Nesting is bounded, written out or through aliases, in both languages."""
    assert "nested deeper than 32" in config.refused("a: " + "[" * 100_000)
    chain = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 600)]
    assert "nested deeper than 32" in config.refused("\n".join(chain))
    config.write("a = " + "[" * 50 + "]" * 50, "deep.toml")
    assert "nested deeper than 32" in config.refused(path="deep.toml")
    config.write("a = " + "[" * 100_000, "deeper.toml")
    assert "deeper.toml" in config.refused(path="deeper.toml")


def test_large_file(config):
    """10 MB are refused before they are parsed."""
    config.write(b"models:\n" + b"  - {name: x, deployments: []}\n" * 350_000)
    assert config.refused() == (
        "fastgw.yaml: is larger than 4 MiB; keep models and keys in the database"
    )


@pytest.mark.parametrize("name", ["fastgw.yaml", "fastgw.toml"])
def test_byte_order_mark(config, name):
    """A byte-order mark, as some editors write, is not part of the first key."""
    text = {"fastgw.yaml": "server: {port: 1}", "fastgw.toml": "server.port = 1"}[name]
    config.write(b"\xef\xbb\xbf" + text.encode(), name)
    assert config.load().settings.server.port == 1


@pytest.mark.parametrize("data", [b"a: 1\nserver: \xff\n", "server: {}".encode("utf-16")])
def test_other_encodings(config, data):
    """What is not UTF-8 is refused with the line."""
    said = config.refused(data)
    assert said.startswith("fastgw.yaml:")
    assert said.endswith("is not UTF-8")


def test_unicode_values(config):
    """Names in any script are kept as they are; control characters are not taken."""
    text = "providers: [{name: p, type: openai}]\nmodels:\n"
    text += "  - {name: 模型-β-🙂, deployments: [{provider: p, model: m}]}\n"
    assert config.load(text).settings.models[0].name == "模型-β-🙂"
    assert "models[0].name" in config.refused(text.replace("模型-β-🙂", r'"a\u2028b"'))


def test_core_schema_words(config):
    """As in YAML 1.2 and TOML: `no` is a word, `1:30` no number, a date is text."""
    text = "aliases:\n  - {name: no, model: 1:30, tags: {at: 2025-04-01, on: yes, n: 0x10}}\n"
    alias = config.load(text).settings.aliases[0]
    assert (alias.name, alias.model) == ("no", "1:30")
    assert alias.tags == {"at": "2025-04-01", "on": "yes", "n": "0x10"}


def test_number_where_text_is_needed(config):
    """An unquoted number is not taken for a name."""
    said = config.refused("aliases: [{name: 4, model: m}]")
    assert "aliases[0].name: must be text; put it in quotes" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nport = 1\nport = 2\n", "fastgw.toml:3: not valid TOML: Cannot overwrite"),
        ("[server]\n[server]\n", "fastgw.toml:2: not valid TOML"),
        ("server = {\n", "fastgw.toml:"),
        ("x = 'a\n", "fastgw.toml:2: not valid TOML"),
        ("[server]\nprot = 1\n", "fastgw.toml:2: server.prot: unknown key; did you mean `port`?"),
        ("[server]\nport = nan\n", "fastgw.toml:2: server.port: must be a finite number"),
        (
            "[[providers]]\nname = 'a'\ntype = 'openai'\n[[providers]]\nname = 'b'\ntyp = 'x'\n",
            "fastgw.toml:4: providers[1].type: is required",
        ),
        (
            "[[models]]\nname = 'm'\n[[models.deployments]]\nprovider = 'x'\nmodel = 'm'\n",
            "fastgw.toml:4: models[0].deployments[0].provider: no provider is called `x`",
        ),
        (
            "[admin]\nemail = '''\nport = 1\n'''\n[server] # here\nport = 99999\n",
            "fastgw.toml:2: admin.email: has a control character",
        ),
        (
            'server.tls.cert = """\nserver.port = 1\n"""\nserver.port = 99999 # = 1\n',
            "fastgw.toml:4: server.port: must be less",
        ),
        ("server = {host = 'a', prot = 1}\n", "fastgw.toml:1: server.prot: unknown key"),
    ],
)
def test_toml_that_is_refused(config, text, said):
    """Faults in TOML name their line too, arrays of tables and long strings included."""
    config.write(text, "fastgw.toml")
    lines = config.refused().splitlines()
    assert any(line.startswith(said) for line in lines), lines
