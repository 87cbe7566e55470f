"""`fastgw serve` that cannot start: one line each on standard error that says why, and exit 1."""

from __future__ import annotations

import json
import logging
import socket

import pytest
import structlog

from fastgw.cli import main
from tests.server.certificates import Authority

pytestmark = pytest.mark.usefixtures("small_catalogue")

PROVIDER = {"name": "p", "type": "openai_compatible", "base_url": "http://127.0.0.1:9/v1"}


@pytest.fixture(autouse=True)
def _own_logging():
    """Undo what the command sets up for its process."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Start with this file and give what standard error says."""
    monkeypatch.chdir(tmp_path)

    def refused(config: dict[str, object]) -> str:
        (tmp_path / "fastgw.yaml").write_text(json.dumps(config, indent=1))
        assert main(["serve"]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("fastgw: ")
        assert "Traceback" not in lines[0]
        return lines[0].removeprefix("fastgw: ")

    return refused


def test_the_database_cannot_be_reached(refused):
    """Named without the password."""
    line = refused({"database": {"url": "postgresql://u:hunter22@127.0.0.1:9/none"}})
    assert line.startswith("cannot open postgresql://127.0.0.1:9/none: ")
    assert "ConnectionRefusedError" in line
    assert "hunter22" not in line


def test_the_database_url_is_nonsense(refused):
    """It is checked by the driver."""
    line = refused({"database": {"url": "postgresql://u:hunter22@127.0.0.1/x?sslmode=bogus"}})
    assert "sslmode" in line
    assert "hunter22" not in line


def test_the_database_is_a_folder(refused, tmp_path):
    """SQLite cannot open it."""
    (tmp_path / "folder").mkdir()
    assert refused({"database": {"url": f"sqlite:///{tmp_path}/folder"}}).startswith("cannot ")


def test_the_data_folder_cannot_be_made(refused, tmp_path):
    """A file is in its place."""
    (tmp_path / "data").write_text("")
    line = refused({"journal": {"dir": f"{tmp_path}/data/journal"}})
    assert line.startswith("cannot use ")
    assert "data" in line


def test_the_port_is_taken(refused):
    """The address is named."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        config = {"server": {"port": port}, "admin": {"email": "a@b", "password": "long enough x"}}
        assert refused(config) == f"cannot listen on 127.0.0.1:{port}: Address already in use"


def test_the_admin_address_is_taken(refused):
    """It is an address like the others."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        admin = {"listen": address, "email": "a@b", "password": "long enough x"}
        line = refused({"server": {"port": 0}, "admin": admin})
        assert line == f"cannot listen on {address}: Address already in use"


def test_a_key_that_does_not_exist(refused):
    """File and line."""
    line = refused({"server": {"prot": 1}})
    assert line.startswith("fastgw.yaml:3: server.prot: unknown key; did you mean `port`?")


def test_a_provider_without_an_address(refused):
    """Only its type knows that it needs one."""
    line = refused({"providers": [{"name": "p", "type": "openai_compatible"}]})
    assert line.startswith("fastgw.yaml:4: providers[0].base_url: is required for type")


@pytest.mark.parametrize("content", [None, "not PEM"])
def test_a_provider_s_anchor(refused, tmp_path, content):
    """It is read at the start, not at the first request."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    line = refused({"providers": [PROVIDER | {"ca_file": str(path)}]})
    assert line.startswith(f"fastgw.yaml:7: providers[0].ca_file: cannot use {path}: ")


def test_certificates_of_the_server(refused, tmp_path):
    """Absent, mixed up or not PEM: which file, and why."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("one")
    _, other_key = authority.issue("two")
    empty = tmp_path / "empty.pem"
    empty.write_text("")

    def line(**tls: str) -> str:
        return refused({"server": {"tls": {"cert": cert, "key": key} | tls}})

    absent = f"{tmp_path}/absent.pem"
    assert line(cert=absent) == (
        f"fastgw.yaml:4: server.tls.cert: cannot use {absent}: No such file or directory"
    )
    assert line(key=absent).startswith(f"fastgw.yaml:5: server.tls.key: cannot use {absent}: ")
    assert line(client_ca=absent).startswith("fastgw.yaml:6: server.tls.client_ca: cannot use")
    assert "key values mismatch" in line(key=other_key)
    assert "server.tls.cert: cannot serve by these files" in line(cert=str(empty))
    assert "server.tls" in line(client_ca=str(empty))


def test_a_master_key_that_others_can_read(refused, tmp_path):
    """The file and the remedy."""
    file = tmp_path / "fastgw-data" / "master.key"
    file.parent.mkdir()
    file.write_text("A" * 43 + "=\n")
    file.chmod(0o640)
    assert refused({}) == (
        "fastgw-data/master.key is readable by others (mode 0640); run chmod 600 on it"
    )


def test_a_password_that_is_too_short(refused):
    """The setting and the length."""
    line = refused({"admin": {"email": "root@example.com", "password": "short"}})
    assert line == "admin.password must have at least 12 characters"


def test_the_journal_cannot_be_written(refused, tmp_path):
    """It is found out at the start, not when money is at stake."""
    (tmp_path / "file").write_text("")
    line = refused({"journal": {"dir": "file/journal"}, "providers": [PROVIDER]})
    assert line.startswith("cannot use ")
    assert "file" in line


def test_a_journal_in_redis_is_not_there_yet(refused):
    """Said at once, with the place."""
    line = refused({"journal": {"mode": "redis"}, "redis": {"url": "redis://x"}})
    assert "this build keeps no journal in redis" in line
