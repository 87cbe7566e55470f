"""Finding Redis and staying with it: passwords, TLS, sockets, a real cluster, real Sentinels."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis as client

from fastgw._ext import limits
from fastgw.flow.rules import Rule
from fastgw.flow.shared import make_meter
from fastgw.server.keeper import Keeper
from fastgw.storage.redis import Refused, find_link, parse
from tests import servers
from tests.server.certificates import Authority
from tests.waiting import eventually


class Configured(servers.Redis):
    """A Redis with more on its command line."""

    def __init__(self, *options, port=0):
        super().__init__()
        self.options = options
        self.fixed_port = port

    def argv(self):
        return [*super().argv(), *self.options]

    def ready(self):
        return self._connects()


class Sentinel(Configured):
    """One of three that watch a master."""

    def __init__(self, master):
        super().__init__()
        self.master = master

    def argv(self):
        file = self.folder / "sentinel.conf"
        if not file.exists():
            file.write_text(
                f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
                f"sentinel monitor mymaster 127.0.0.1 {self.master} 2\n"
                "sentinel down-after-milliseconds mymaster 500\n"
                "sentinel failover-timeout mymaster 2000\n"
            )
        return [str(self.binary), str(file), "--sentinel"]


@contextlib.contextmanager
def running(*made):
    """Start servers; they end with the block."""
    with contextlib.ExitStack() as stack:
        for server in made:
            server.launch()
            stack.callback(server.close)
        yield


@contextlib.asynccontextmanager
async def keeping(url, **options):
    """A keeper on this address."""

    async def flush():
        pass

    keeper = Keeper(
        parse(url), instance="i", place="p", workers=1, on_failure="deny", flush=flush, **options
    )
    run = asyncio.get_running_loop().create_task(keeper.run())
    try:
        await eventually(lambda: keeper.available, 10, "Redis decides")
        yield keeper
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


def make_guard(keeper, limit=10):
    """A guard of one window."""
    rule = Rule(id="lim_1", scope="global", metric="requests", limit=limit, window_s=3600)
    guard = limits.Guard((make_meter(rule, ""),))
    guard.keeper = keeper
    return guard


async def take(keeper, guard, name):
    """Reserve and settle; tell whether it was let through."""
    outcome = await keeper.wait(guard, name, 0, 0)
    if isinstance(outcome, limits.Reservation):
        outcome.settle(limits.now_us(), 0, 0)
        return True
    return False


@pytest.mark.parametrize(
    ("url", "kind", "places", "rest"),
    [
        ("redis://h:1/2", "single", (("h", 1),), {"db": 2}),
        ("redis://[::1]/", "single", (("::1", 6379),), {}),
        ("rediss://u:p%40@h", "single", (("h", 6379),), {"tls": True, "user": "u"}),
        ("unix:///run/r.sock?db=3", "single", (("/run/r.sock", 0),), {"db": 3}),
        ("redis+sentinel://:p@a:1,b/svc", "sentinel", (("a", 1), ("b", 26379)),
         {"service": "svc", "password": "p"}),
        ("rediss+cluster://a,b:2", "cluster", (("a", 6379), ("b", 2)), {"tls": True}),
    ],
)  # fmt: skip
def test_addresses_are_read(url, kind, places, rest):
    """Every form of the contract."""
    address = parse(url)
    assert (address.kind, address.places) == (kind, places)
    for name, value in rest.items():
        assert getattr(address, name) == value


@pytest.mark.parametrize("url", ["redis+sentinel://h:1", "redis://h:port", "redis://h/x"])
def test_addresses_that_cannot_be_are_refused(url):
    """By their shape."""
    with pytest.raises(ValueError, match=r"\w"):
        parse(url)


async def test_a_user_with_a_password_is_let_in():
    """ACL: the user that is named, with its rights on our keys alone."""
    server = Configured("--requirepass", "other")
    with running(server):
        with client.Redis(port=server.port, password="other") as hand:
            hand.acl_setuser(
                "gateway", enabled=True, passwords=["+s3cret"], keys=["{fgw}:*"],
                categories=["+@all"],
            )  # fmt: skip
        at = f"127.0.0.1:{server.port}"
        async with keeping(f"redis://gateway:s3cret@{at}") as keeper:
            assert await take(keeper, make_guard(keeper), "a")
        async with keeping(f"redis://:other@{at}"):
            pass
        for url in (f"redis://{at}", f"redis://gateway:wrong@{at}"):
            with pytest.raises(Refused):
                await find_link(parse(url))


async def test_a_unix_socket_will_do(tmp_path):
    """Its path is the address."""
    path = Path("/tmp") / f"fastgw-{time.monotonic_ns()}.sock"
    try:
        with running(Configured("--unixsocket", str(path))):
            async with keeping(f"unix://{path}?db=2") as keeper:
                assert await take(keeper, make_guard(keeper), "a")
    finally:
        path.unlink(missing_ok=True)


def has_tls():
    """Tell whether the server's binary loads OpenSSL."""
    linked = subprocess.run(
        ["ldd", servers.find_redis()], capture_output=True, text=True, check=False
    )
    return "libssl" in linked.stdout


async def test_tls_checks_who_answers(tmp_path):
    """A certificate that nobody vouches for is refused."""
    if not has_tls():
        pytest.skip("the Redis here was built without TLS")
    authority = Authority(tmp_path)
    cert, key = authority.issue("redis")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Configured(
        "--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key),
        "--tls-auth-clients", "no",
    )  # fmt: skip
    with running(server):
        async with keeping(f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority.file}") as keeper:
            assert await take(keeper, make_guard(keeper), "a")
        with pytest.raises(OSError):
            await find_link(parse(f"rediss://127.0.0.1:{port}"))


async def test_a_cluster_decides_in_one_place_and_follows_its_slot():
    """Three nodes; the slot of our keys moves, and the count goes with it."""
    nodes = [Configured("--cluster-enabled", "yes") for _ in range(3)]
    with running(*nodes):
        hands = [client.Redis(port=node.port) for node in nodes]
        spans = [(0, 5460), (5461, 10922), (10923, 16383)]
        for hand, (first, last), node in zip(hands, spans, nodes, strict=True):
            hand.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            hands[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)

        def is_whole():
            return all(
                b"cluster_state:ok" in (info := hand.execute_command("CLUSTER", "INFO"))
                or "cluster_state:ok" in str(info)
                for hand in hands
            )

        await eventually(is_whole, 20, "the cluster stands")
        slot = hands[0].execute_command("CLUSTER", "KEYSLOT", "{fgw}:state")
        owner = next(at for at, (first, last) in enumerate(spans) if first <= slot <= last)
        seed = nodes[(owner + 1) % 3].port
        async with keeping(f"redis+cluster://127.0.0.1:{seed}") as keeper:
            guard = make_guard(keeper)
            assert all([await take(keeper, guard, f"a{n}") for n in range(4)])
            move(hands, nodes, slot, owner, (owner + 1) % 3)
            await eventually(lambda: take(keeper, guard, "b0"), 20, "the new node decides")
            taken = [await take(keeper, guard, f"b{n}") for n in range(1, 8)]
            assert sum(taken) == 5, "ten in all, wherever they were counted"
        for hand in hands:
            hand.close()


def move(hands, nodes, slot, old, new):
    """Move a slot with its keys, as an operator does."""
    ids = [hand.execute_command("CLUSTER", "MYID") for hand in hands]
    hands[new].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[old])
    hands[old].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[new])
    while keys := hands[old].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
        hands[old].execute_command(
            "MIGRATE", "127.0.0.1", nodes[new].port, "", 0, 5000, "KEYS", *keys
        )
    for hand in (hands[new], hands[old]):
        hand.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[new])


async def test_sentinels_tell_the_master_also_when_it_changes():
    """The master is killed; its replica takes over, and what it had counts."""
    master = Configured()
    with running(master):
        replica = Configured("--replicaof", "127.0.0.1", str(master.port))
        with running(replica):
            watchers = [Sentinel(master.port) for _ in range(3)]
            with running(*watchers):
                hand = client.Redis(port=replica.port)
                await eventually(
                    lambda: hand.info("replication").get("master_link_status") == "up", 20
                )
                for watcher in watchers:
                    await knows_all(watcher)
                places = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
                async with keeping(f"redis+sentinel://{places}/mymaster") as keeper:
                    guard = make_guard(keeper)
                    assert all([await take(keeper, guard, f"a{n}") for n in range(4)])
                    await eventually(lambda: has_caught_up(master, replica), 10)
                    master.kill()
                    await eventually(lambda: take(keeper, guard, "b0"), 40, "the replica decides")
                    taken = [await take(keeper, guard, f"b{n}") for n in range(1, 8)]
                    assert sum(taken) == 5
                hand.close()


async def knows_all(watcher):
    """Wait until a Sentinel knows the replica and the others."""
    with client.Redis(port=watcher.port) as hand:

        def knows():
            known = hand.sentinel_master("mymaster")
            return known["num-slaves"] == 1 and known["num-other-sentinels"] == 2

        await eventually(knows, 20, "the Sentinels know each other")


def has_caught_up(master, replica):
    """Tell whether the replica has everything."""
    with client.Redis(port=master.port) as one, client.Redis(port=replica.port) as two:
        return (
            one.info("replication")["master_repl_offset"]
            == two.info("replication")["slave_repl_offset"]
        )
