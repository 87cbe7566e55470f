"""Command line before environment before `.env` before file before defaults, for every value."""

from __future__ import annotations

import itertools

import pytest

from fastgw.domain import Secret

LEVELS = ("file", ".env", "environment", "command line")
PLACES = {
    "file": "fastgw.yaml:1",
    ".env": ".env:1: FASTGW_SERVER__PORT",
    "environment": "FASTGW_SERVER__PORT",
    "command line": "command line",
    "default": "default",
}


@pytest.mark.parametrize(
    "given", [each for n in range(5) for each in itertools.combinations(LEVELS, n)], ids=str
)
def test_five_levels(config, given):
    """Of every subset of the levels the highest wins, and says so."""
    config.write("server: {port: 1}" if "file" in given else "")
    config.write("FASTGW_SERVER__PORT=2" if ".env" in given else "", ".env")
    loaded = config.load(
        environ={"FASTGW_SERVER__PORT": "3"} if "environment" in given else {},
        overrides={"server.port": 4 if "command line" in given else None},
    )
    top = next((level for level in reversed(LEVELS) if level in given), "default")
    ports = {"default": 8080, "file": 1, ".env": 2, "environment": 3, "command line": 4}
    assert loaded.settings.server.port == ports[top]
    assert loaded.origins["server.port"] == PLACES[top]


def test_levels_join_by_key(config):
    """Each key is looked up by itself: a section is not replaced whole."""
    config.write("FASTGW_SERVER__WORKERS=2\nFASTGW_LOGS__LEVEL=debug\n", ".env")
    loaded = config.load(
        "server: {host: a, port: 1, tls: {cert: c, key: k}}",
        {"FASTGW_SERVER__TLS__CERT": "other"},
        {"server.port": 5},
    )
    server = loaded.settings.server
    assert (server.host, server.port, server.workers) == ("a", 5, 2)
    assert (server.tls.cert, server.tls.key) == ("other", "k")
    assert loaded.settings.logs.level == "debug"


def test_lists_are_replaced_whole(config):
    """A list of a higher level replaces, it does not add."""
    text = "providers: [{name: a, type: openai}, {name: b, type: openai}]"
    loaded = config.load(text, {"FASTGW_PROVIDERS": '[{"name": "c", "type": "openai"}]'})
    assert [each.name for each in loaded.settings.providers] == ["c"]


def test_bare_variables(config):
    """DATABASE_URL and REDIS_URL work bare; the full name goes before, a higher level too."""
    environ = {"DATABASE_URL": "postgresql://bare/a", "REDIS_URL": "redis://bare/0"}
    settings = config.load("database: {url: 'sqlite:///f'}", environ).settings
    assert settings.database.url == Secret("postgresql://bare/a")
    assert settings.redis.url == Secret("redis://bare/0")
    environ["FASTGW_DATABASE__URL"] = "postgresql://full/a"
    assert config.load(environ=environ).settings.database.url == Secret("postgresql://full/a")
    config.write("FASTGW_DATABASE__URL=postgresql://dotenv/a\n", ".env")
    environ = {"DATABASE_URL": "postgresql://bare/a"}
    assert config.load(environ=environ).settings.database.url == Secret("postgresql://bare/a")


def test_empty_bare_variable_is_none(config):
    """`REDIS_URL=`, as composed environments set it, is no setting."""
    assert config.load("redis: {url: 'redis://f'}", {"REDIS_URL": ""}).settings.redis.url == Secret(
        "redis://f"
    )


def test_admin_account(config):
    """The first start's account comes from its own variables."""
    environ = {"FASTGW_ADMIN_EMAIL": "a@b.c", "FASTGW_ADMIN_PASSWORD": "correct horse"}
    admin = config.load(environ=environ).settings.admin
    assert (admin.email, admin.password) == ("a@b.c", Secret("correct horse"))


def test_secret_replaces_a_secret_file(config):
    """Text of a higher level takes the place of `{file: ...}`, and the other way round."""
    config.write("0123456789abcdef-file", "s")
    text = "security: {master_key: {file: nowhere}, jwt_secret: 0123456789abcdef-text}"
    environ = {
        "FASTGW_SECURITY__MASTER_KEY": "0123456789abcdef-env",
        "FASTGW_SECURITY__JWT_SECRET__FILE": "s",
    }
    security = config.load(text, environ).settings.security
    assert security.master_key == Secret("0123456789abcdef-env")
    assert security.jwt_secret == Secret("0123456789abcdef-file")


def test_unknown_override(config):
    """A command-line option for a setting that does not exist is an error too."""
    assert config.refused(overrides={"server.prot": 1}) == (
        "command line: server.prot: unknown key; did you mean `port`?"
    )
