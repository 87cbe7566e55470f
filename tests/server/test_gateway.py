"""One worker: where it listens and to whom, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading

import aiohttp
import pytest

from fastgw.domain import Secret
from fastgw.errors import VaultError
from fastgw.flow.authenticate import is_local
from fastgw.flow.exchange import Exchange
from fastgw.storage import open_store
from fastgw.storage.crypto import Vault
from fastgw.storage.sql import providers, usage_reports
from fastgw.storage.sql.usage_reports import Filter
from tests.scripted import Hold, Request, Scripted, Wait
from tests.server.certificates import Authority
from tests.server.conftest import BODY, CHAT, REPLY
from tests.waiting import eventually


async def records(store):
    return [record async for record in usage_reports.export(store, Filter())]


# -- TLS ----------------------------------------------------------------------------------------


async def test_https(serve, sqlite_url, tmp_path):
    """With server.tls every listening socket speaks TLS 1.2 or later and nothing else."""
    authority = Authority(tmp_path)
    cert, key_file = authority.issue("server")
    served = await serve(sqlite_url, server={"tls": {"cert": cert, "key": key_file}})
    key = await served.create_key()
    trust = ssl.create_default_context(cafile=authority.file)
    for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
        trust.maximum_version = version
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as client:
            headers = {"authorization": f"Bearer {key}"}
            async with client.post(served.url + CHAT, json=BODY, headers=headers) as answer:
                assert answer.status == 200
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await served.get("/healthz")  # without the authority
    with pytest.raises(aiohttp.ClientError):
        await served.client.get(served.url.replace("https", "http") + "/healthz")


async def test_client_certificates(serve, sqlite_url, tmp_path):
    """With client_ca only who has a certificate of that authority gets in."""
    authority, clients = Authority(tmp_path), Authority(tmp_path, "clients")
    cert, key_file = authority.issue("server")
    tls = {"cert": cert, "key": key_file, "client_ca": clients.file}
    served = await serve(sqlite_url, server={"tls": tls})
    trust = ssl.create_default_context(cafile=authority.file)

    async def status() -> int:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as client,
            client.get(served.url + "/healthz") as answer,
        ):
            return answer.status

    with pytest.raises(aiohttp.ClientError):
        await status()
    trust.load_cert_chain(*authority.issue("stranger"))
    with pytest.raises(aiohttp.ClientError):
        await status()
    trust.load_cert_chain(*clients.issue("friend"))
    assert await status() == 200


# -- who is served ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "headers", "near"),
    [
        ("127.0.0.1", {}, True),
        ("127.8.9.10", {}, True),
        ("::1", {}, True),
        ("::ffff:127.0.0.1", {}, True),
        ("unix", {}, True),
        ("", {}, False),
        ("10.0.0.1", {}, False),
        ("1.127.0.0", {}, False),
        ("::ffff:10.0.0.1", {}, False),
        ("::2", {}, False),
        ("fe80::1", {}, False),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, False),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1"}, False),
        ("unix", {"via": "1.1 proxy"}, False),
    ],
)
def test_who_is_on_this_machine(peer, headers, near):
    """Loopback and Unix sockets; what a proxy beside us forwards comes from anywhere."""
    exchange = Exchange("fgx_1", "chat_completions", "openai", headers)
    exchange.peer = peer
    assert is_local(exchange) is near


async def test_clients_without_a_key(serve, sqlite_url, tmp_path, provider):
    """auth.anonymous_key serves those on this machine; a key that is sent counts all the same."""
    served = await serve(
        sqlite_url,
        server={"listen": ["127.0.0.1:0", f"unix:{tmp_path}/s"]},
        auth={"anonymous_key": "fgw-not-there-yet"},
    )
    gateway = served.gateway
    status, body = await served.chat(None)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    key = await served.create_key("anonymous")
    gateway.context.set_anonymous(Secret(key), remote=False)
    assert (await served.chat(None))[0] == 200
    assert (await served.get("/v1/models"))[1]["data"][0]["id"] == "m"
    assert (await served.chat("fgw-" + "x" * 49))[0] == 401
    forwarded = {"x-forwarded-for": "203.0.113.7"}
    assert (await served.chat(None, headers=forwarded))[0] == 401
    gateway.context.set_anonymous(Secret(key), remote=True)
    assert (await served.chat(None, headers=forwarded))[0] == 200
    connector = aiohttp.UnixConnector(f"{tmp_path}/s")
    gateway.context.set_anonymous(Secret(key), remote=False)
    async with (
        aiohttp.ClientSession(connector=connector) as client,
        client.post("http://x" + CHAT, json=BODY) as answer,
    ):
        assert answer.status == 200
    names = {record.key_id for record in await _written(gateway, 3)}
    assert len(names - {None}) == 1


async def _written(gateway, least):
    async def enough():
        found = await records(gateway.store)
        return found if sum(r.status == 200 for r in found) >= least else None

    return await eventually(enough)


async def test_another_machine_is_not_served_without_a_key(serve, sqlite_url):
    """Seen from an address of ours that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    served = await serve(sqlite_url, server={"host": "0.0.0.0"})
    key = await served.create_key()
    served.gateway.context.set_anonymous(Secret(key), remote=False)
    served.url = served.url.replace("127.0.0.1", address)
    status, body = await served.chat(None)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    served.gateway.context.set_anonymous(Secret(key), remote=True)
    assert (await served.chat(None))[0] == 200


# -- where it listens ---------------------------------------------------------------------------


async def test_the_admin_api_on_an_address_of_its_own(serve, sqlite_url):
    """With admin.listen it is there and nowhere else, and nothing else is there."""
    served = await serve(sqlite_url, admin={"listen": "127.0.0.1:0"})
    main, admin = served.urls
    assert main != admin
    for url, path, status in (
        (main, "/admin/me", 404),
        (main, "/healthz", 200),
        (admin, "/admin/me", 401),
        (admin, "/admin/nothing", 404),
        (admin, "/healthz", 404),
        (admin, "/v1/models", 404),
    ):
        async with served.client.get(url + path) as answer:
            assert answer.status == status, url + path
            assert (await answer.json())["status" if status == 200 else "error"]


async def test_the_admin_api_beside_the_data_plane(serve, sqlite_url):
    """Without admin.listen it is on the same address."""
    served = await serve(sqlite_url)
    assert len(served.urls) == 1
    status, body = await served.get("/admin/me")
    assert (status, body["error"]["code"]) == (401, "invalid_token")


async def test_a_burst_of_connections_is_accepted_in_a_few_turns(serve, sqlite_url):
    """Several handles on each socket: a busy loop, whose turns are long, still takes newcomers."""
    served = await serve(sqlite_url)
    port = int(served.url.rsplit(":", 1)[1])
    newcomers = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
    try:
        turns = 0
        while served.gateway.door.inside < 64:
            await asyncio.sleep(0)
            turns += 1
        assert turns <= 64 / 8 + 8
    finally:
        for each in newcomers:
            each.close()


# -- how it ends --------------------------------------------------------------------------------


async def test_drain_ends_what_is_live_and_refuses_what_is_new(serve, sqlite_url):
    """503 with connection: close on open connections, queued ones too; the live one ends whole."""
    released = asyncio.Event()
    async with Scripted([Request(), Wait(released), REPLY, Hold()]) as slow:
        provider = {"name": "p", "type": "openai_compatible", "base_url": slow.url, "models": ["m"]}
        served = await serve(sqlite_url, providers=[provider], server={"shutdown_grace_s": 20})
        gateway = served.gateway
        key = await served.create_key()
        assert (await served.get("/healthz"))[0] == 200  # leaves an idle connection
        live = asyncio.ensure_future(served.chat(key))
        await eventually(lambda: slow.requests)
        port = int(served.url.rsplit(":", 1)[1])
        # Not accepted yet when the drain begins.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        draining = asyncio.ensure_future(gateway.drain())
        await eventually(lambda: gateway.lane.draining)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}authorization: Bearer {key}\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        answer = (await reader.read()).lower()
        assert answer.startswith(b"http/1.1 503 ")
        assert b"\r\nconnection: close\r\n" in answer
        assert b'"shutting_down"' in answer
        writer.close()
        with pytest.raises(OSError, match="refused"):
            await asyncio.open_connection("127.0.0.1", port)
        assert not live.done()
        released.set()
        assert (await live)[0] == 200
        await draining
    await eventually(lambda: served.loader.loaded == 1)


async def test_readyz_turns_at_once(serve, sqlite_url):
    """Before connections are refused, so that load balancers go elsewhere."""
    served = await serve(sqlite_url, server={"drain_delay_s": 0.5})
    assert (await served.get("/readyz"))[0] == 200
    draining = asyncio.ensure_future(served.gateway.drain())
    await asyncio.sleep(0)
    status, body = await served.get("/readyz")
    assert (status, body["reasons"]) == (503, ["draining"])
    assert (await served.get("/healthz"))[0] == 200
    await draining


async def test_a_start_that_fails_leaves_nothing_open(serve, sqlite_url):
    """The store and its threads are closed again."""
    store = await open_store(sqlite_url, migrate=False)
    await providers.create(
        store,
        Vault(bytes(32)),
        name="p",
        type="openai",
        base_url="https://x",
        credential=Secret("x"),
    )
    await store.close()
    before = threading.active_count()
    with pytest.raises(VaultError):
        await serve(sqlite_url)
    await eventually(lambda: threading.active_count() <= before)
