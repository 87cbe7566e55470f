"""The admin API through a real gateway: processes, signals, a configuration file."""

from __future__ import annotations

import json
import signal
from email.message import Message
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from fastgw.storage.sql import admins
from tests.processes import Gateway
from tests.waiting import eventually_sync


def ask(url: str, token: str | None = None, body: object = None) -> tuple[int, Message, bytes]:
    request = Request(url, data=None if body is None else json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    if token is not None:
        request.add_header("authorization", f"Bearer {token}")
    try:
        with urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except HTTPError as exc:
        with exc:
            return exc.code, exc.headers, exc.read()


def test_log_in_and_be_known(sqlite_url, tmp_path):
    """The configured account exists after the first start; its tokens work on all workers, on the
    address of the admin API and there alone, and end with a change of password.
    """
    config = {"admin": {"listen": "127.0.0.1:0", "email": "root@example.com",
                        "password": "correct horse battery"},
              "server": {"workers": 2}}  # fmt: skip
    gateway = Gateway(tmp_path, sqlite_url, config)
    try:
        gateway.ready()
        admin = gateway.wait_for(r"/admin on (http\S+?)[, ]")[1]
        login = {"email": "root@example.com", "password": "correct horse battery"}
        assert ask(f"{gateway.url}/admin/auth/login", body=login)[0] == 404
        status, headers, body = ask(f"{admin}/admin/auth/login", body=login)
        assert (status, headers["content-type"]) == (200, "application/json")
        token = json.loads(body)["access_token"]
        for _ in range(8):
            status, headers, body = ask(f"{admin}/admin/me", token)
            assert (status, json.loads(body)["email"]) == (200, "root@example.com")
            assert headers["cache-control"] == "no-store"
            assert headers["server"] == "fastgw"
        for path, expected in (("/admin/nothing", 404), ("/admin/auth/login", 405)):
            status, headers, body = ask(f"{admin}{path}", token)
            assert (status, headers["x-content-type-options"]) == (expected, "nosniff")
            assert json.loads(body)["error"]["code"]
        assert ask(f"{admin}/healthz")[0] == 404

        async def change(store):
            found = await admins.find_by_email(store, "root@example.com")
            await admins.update(store, found[0].id, {"role": "viewer"})

        gateway.in_store(change)
        assert ask(f"{admin}/admin/me", token)[0] == 401
        gateway.write_config({**config, "providers": [{"name": "p", "type": "openai_compatible"}]})
        eventually_sync(lambda: "is required for type openai_compatible" in gateway.text)
        assert gateway.get("/healthz")[0] == 200
        assert len(gateway.children()) == 2
    finally:
        assert gateway.stop(signal.SIGINT) == 0
    assert "Traceback" not in gateway.text
    assert "correct horse" not in gateway.text
