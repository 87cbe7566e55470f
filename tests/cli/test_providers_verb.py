"""`fastgw providers` and `fastgw check`, on both engines."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from fastgw import mock

RIGHT = "sk-canary0123456789abcdef"


@pytest.fixture
def upstream():
    """A mock provider in a thread of its own that wants one credential; gives its base URL."""
    ready, stop = threading.Event(), asyncio.Event()
    place = {}

    async def serve():
        running = await mock.start(mock.Options(models=("demo",), api_key=RIGHT))
        place.update(url=running.base_url, loop=asyncio.get_running_loop())
        ready.set()
        await stop.wait()
        await running.stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield place["url"]
    place["loop"].call_soon_threadsafe(stop.set)
    thread.join()


def add(cli, name, *more, stdin="", **options):
    args = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    return cli("providers", "add", name, "--json", *args, *more, stdin=stdin)


def test_a_credential_by_every_way(cli, monkeypatch, upstream):
    """Variable, standard input, argument: stored the same; only the argument gets a warning."""
    monkeypatch.setenv("MY_SECRET", RIGHT)
    common = {"type": "openai_compatible", "base_url": upstream}
    results = [
        add(cli, "env", "--credential-env", "MY_SECRET", **common),
        add(cli, "stdin", "--credential-stdin", stdin=RIGHT + "\n", **common),
        add(cli, "argument", "--credential", RIGHT, **common),
    ]
    assert [bool(result.err) for result in results] == [False, False, True]
    assert "history" in results[2].err
    for result in results:
        assert result.json["credential_hint"] == "sk-…cdef"
        assert RIGHT not in result.out + result.err
        assert cli("providers", "test", result.json["name"]).code == 0


def test_the_credential_is_encrypted_at_rest(cli, store_url, monkeypatch):
    """Neither listings nor a SQLite file hold it; the master key is readable by us alone."""
    add(cli, "p", "--credential-stdin", type="openai", stdin=RIGHT)
    for form in ((), ("--json",), ("--csv",)):
        assert RIGHT not in cli("providers", "list", *form).out
        assert RIGHT not in cli("providers", "show", "p", *form).out
    if store_url.startswith("sqlite"):
        path = Path(store_url.removeprefix("sqlite:///"))
        for part in path.parent.glob(path.name + "*"):
            assert RIGHT.encode() not in part.read_bytes()
    key = Path("fastgw-data/master.key")
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_lost_master_key_is_one_line(cli, upstream):
    """With another master key the credential cannot be read, and the line says why."""
    add(cli, "p", "--credential-stdin", type="openai_compatible", base_url=upstream, stdin=RIGHT)
    Path("fastgw-data/master.key").unlink()
    result = cli("providers", "test", "p")
    assert result.code == 1
    assert "master key" in result.err
    assert len(result.err.splitlines()) == 1


def test_what_is_wrong_is_said(cli, upstream):
    """A table of steps on stdout, the failing one on stderr, exit code 1."""
    add(cli, "p", "--credential-stdin", type="openai_compatible", base_url=upstream, stdin="sk-bad")
    result = cli("providers", "test", "p")
    assert result.code == 1
    assert result.err == "fastgw: p: credential: refused with 401\n"
    steps = {row.split()[0]: row.split()[1] for row in result.out.splitlines()[1:]}
    assert steps == {
        "dns": "ok",
        "tcp": "ok",
        "tls": "-",
        "credential": "FAILED",
        "models": "-",
    }


def test_update_and_disable(cli, upstream):
    """What is given replaces what was there, the credential too; the rest stays."""
    add(
        cli, "p", "--credential-stdin", "--header", "X-Team: a", "--timeouts", "idle_s=7",
        type="openai_compatible", base_url="http://127.0.0.1:1/v1", models="a,b", stdin="sk-bad",
    )  # fmt: skip
    changed = cli(
        "providers", "update", "p", "--base-url", upstream, "--models", "demo",
        "--credential-stdin", "--json", stdin=RIGHT,
    ).json  # fmt: skip
    assert (changed["base_url"], changed["models"]) == (upstream, ["demo"])
    assert changed["timeouts"] == {"idle_s": 7}
    assert list(changed["headers"]) == ["x-team"]
    assert cli("providers", "test", "p").code == 0
    assert cli("providers", "disable", "p").code == 0
    assert cli("providers", "show", "p", "--json").json["enabled"] is False
    assert cli("providers", "update", "p", "--enable", "--json").json["enabled"] is True


@pytest.mark.parametrize(
    "args",
    [
        ("p", "--type", "opnai"),
        ("p", "--type", "openai_compatible"),
        ("models", "--type", "openai"),
        ("a b", "--type", "openai"),
        ("p\x1b[2J", "--type", "openai"),
        ("p", "--type", "openai", "--base-url", "ftp://x"),
        ("p", "--type", "openai", "--base-url", "https://user:canarypw@x"),
        ("p", "--type", "openai", "--timeouts", "bogus_s=1"),
        ("p", "--type", "openai", "--timeouts", "idle_s=-1"),
        ("p", "--type", "openai", "--header", "bad name: x"),
        ("p", "--type", "openai", "--header", "host: x"),
        ("p", "--type", "openai", "--credential", "a", "--credential-stdin"),
        ("p",),
    ],
)
def test_wrong_use(run, args):
    """What the configuration file would refuse is refused here, in one line and without secrets."""
    result = run("providers", "add", *args)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert result.err.rstrip("\n").isprintable()
    assert "canarypw" not in result.err


@pytest.mark.parametrize(
    ("args", "stdin", "said"),
    [
        (("--credential-env", "NO_SUCH_VARIABLE"), "", "no variable NO_SUCH_VARIABLE"),
        (("--credential-stdin",), "  \n", "the credential is empty"),
        (("--credential-stdin",), "sk-a\nsk-b", "no header can carry"),
        (("--credential-stdin",), "sk-é", "no header can carry"),
    ],
)
def test_credentials_that_cannot_be_used(run, args, stdin, said):
    """Exit code 1 before the database is touched."""
    result = run("providers", "add", "p", "--type", "openai", *args, stdin=stdin)
    assert result.code == 1
    assert said in result.err
    assert not Path("fastgw-data").exists()


def test_a_name_is_taken_once(cli):
    """The second of a name is refused."""
    assert add(cli, "p", type="openai").code == 0
    result = add(cli, "p", type="openai")
    assert result.code == 1
    assert "taken" in result.err


def test_providers_of_the_configuration_are_listed_and_left_alone(cli, monkeypatch, upstream):
    """They are shown with where they come from and tested; changed they are in their place."""
    Path("fastgw.yaml").write_text(
        f"providers:\n  - {{name: mine, type: openai_compatible, base_url: {upstream},"
        f" api_key: {RIGHT}, headers: {{x-a: {RIGHT}}}}}\n"
    )
    add(cli, "other", type="openai")
    rows = {row["name"]: row for row in cli("providers", "list", "--json").json}
    assert rows["mine"]["source"] == "fastgw.yaml:2"
    assert rows["other"]["source"] == "database"
    assert RIGHT not in str(rows)
    assert cli("providers", "test", "mine").code == 0
    result = cli("providers", "disable", "mine")
    assert result.code == 1
    assert "change it there" in result.err


def test_check(cli, upstream, redis_url, monkeypatch):
    """A row for everything that is named; exit code 0 when all of it answers."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    add(cli, "p", "--credential-stdin", type="openai_compatible", base_url=upstream, stdin=RIGHT)
    rows = {row["what"]: row["result"] for row in cli("check", "--json").json}
    assert rows == {
        "config": "ok",
        "build": "ok",
        "database": "ok",
        "redis": "ok",
        "provider p": "ok",
    }
    monkeypatch.setenv("REDIS_URL", "redis://:canarypw@127.0.0.1:1")
    cli("providers", "update", "p", "--credential-stdin", stdin="sk-bad")
    result = cli("check")
    assert result.code == 1
    assert result.err == "fastgw: failed: redis, provider p\n"
    assert "canarypw" not in result.out
    cli("providers", "disable", "p")
    assert "provider p" not in cli("check").out


def test_check_without_a_database(run, monkeypatch):
    """What can still be checked is; what cannot be reached is said in the table."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:canarypw@127.0.0.1:1/x")
    monkeypatch.setenv("OPENAI_API_KEY", RIGHT)
    monkeypatch.setenv("FASTGW_PROVIDERS", "[]")
    result = run("check")
    assert result.code == 1
    assert "FAILED" in result.out
    assert "canarypw" not in result.out + result.err


def test_check_changes_nothing(run, monkeypatch, empty_url):
    """Before the first start it says what `serve` would make, and makes none of it."""
    monkeypatch.setenv("DATABASE_URL", empty_url)
    result = run("check")
    assert result.code == 0, result.out
    assert "`serve` makes" in result.out
    assert list(Path().iterdir()) == []
    assert run("db", "current", "--json").json["revision"] is None
    monkeypatch.setenv("FASTGW_DATABASE__AUTO_MIGRATE", "false")
    if empty_url.startswith("postgresql"):
        refused = run("check")
        assert refused.code == 1
        assert "fastgw db upgrade" in refused.out
