"""Names, addresses, TLS and the table of failures.

The room's worst days: a certificate nobody checked; an address of ours in an error a client reads;
a name server that is asked once for every request.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import gc
import ipaddress
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fastgw.errors import UpstreamConnectError
from tests.upstream.scripted import CANARY, Upstream, answering, settled

# -- the failure table -----------------------------------------------------------------------------

TRUST = ssl.SSLCertVerificationError(1, "certificate verify failed at 10.0.0.7")
TRUST.verify_message = "self-signed certificate"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (socket.gaierror(-2, "x"), "api.example cannot be resolved"),
        (UnicodeError("label too long"), "api.example cannot be resolved"),
        (TRUST, "the TLS certificate of api.example is not trusted: self-signed certificate"),
        (ssl.SSLError(1, "[SSL] 10.0.0.7"), "the TLS handshake with api.example failed"),
        (ConnectionRefusedError(111, "10.0.0.7"), "api.example refused the connection"),
        (ConnectionResetError(104, "x"), "api.example closed the connection while it was made"),
        (TimeoutError(110, "10.0.0.7"), "api.example did not answer"),
        (OSError(errno.ENETUNREACH, "10.0.0.7"), "api.example cannot be reached"),
        (OSError(errno.EMFILE, "too many"), "api.example cannot be reached"),
    ],
)
def test_foreign_errors_become_ours(room, error, message):
    """Each kind has its words; none of them holds an address or foreign text."""
    fault = room.dial.fault_of(error, "api.example")
    assert isinstance(fault, UpstreamConnectError)
    assert (fault.message, fault.billed, fault.status) == (message, False, 502)


@pytest.mark.parametrize(
    ("host", "name"),
    [("api.example", "api.example"), ("10.0.0.7", "the provider"), ("::1", "the provider")],
)
def test_addresses_are_not_named(room, host, name):
    """A host is named in messages, an address is not."""
    assert room.dial.name_host(host) == name


async def test_refused(client):
    """Nobody listens: an error at once, nothing billed, and the next request tries again."""
    async with Upstream(answering(CANARY)) as upstream:
        pass
    for _ in range(2):
        sink = await client.ask(upstream)
        assert sink.error.message == "the provider refused the connection"
    assert not client.origin(upstream).dials


async def test_many_refused(clients, room):
    """Everybody in the line gets the error, although few are dialled for."""
    client = clients(bounds=room.origin.Bounds(connections=3))
    async with Upstream(answering(CANARY)) as upstream:
        pass
    sinks = [client.send(upstream) for _ in range(20)]
    for sink in sinks:
        assert (await sink.finished()).outcome == "UpstreamConnectError"


async def test_a_listener_that_hangs_up_at_once(client):
    """A connection that ends before it is used is an error, not a hang."""

    async def script(peer):
        peer.close()

    async with Upstream(script) as upstream:
        sink = await client.ask(upstream)
        assert sink.outcome in {"UpstreamConnectError", "UpstreamClosed"}


# -- names ---------------------------------------------------------------------------------------


def addresses(*hosts):
    """Give getaddrinfo entries for numeric hosts and ports."""
    return [
        (
            socket.AF_INET6 if ":" in host else socket.AF_INET,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            "",
            (host, port),
        )
        for host, port in hosts
    ]


async def test_one_look_up_serves_all_who_ask_at_once(room, clock):
    """Single flight, a short memory, and a cancelled asker does not cancel the others."""
    asked = []

    async def look_up(host, port):
        asked.append(host)
        await release.wait()
        return addresses(("127.0.0.1", port))

    release = asyncio.Event()
    resolver = room.dial.Resolver(look_up, clock, ttl_s=30)
    askers = [asyncio.create_task(resolver.resolve("a", 1)) for _ in range(5)]
    await settled(lambda: asked)
    askers[0].cancel()
    await asyncio.sleep(0)
    release.set()
    results = await asyncio.gather(*askers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [addresses(("127.0.0.1", 1))] * 4
    clock.advance(29)
    await resolver.resolve("a", 1)
    assert asked == ["a"]
    clock.advance(2)
    await resolver.resolve("a", 1)
    resolver.forget("a", 1)
    await resolver.resolve("a", 1)
    assert asked == ["a"] * 3


async def test_the_memory_of_names_is_bounded(room, clock):
    """The oldest name is forgotten first; failures are not remembered at all."""
    asked = []

    async def look_up(host, port):
        asked.append(host)
        if host == "none":
            raise socket.gaierror(-2, "x")
        return [] if host == "empty" else addresses((host, port))

    resolver = room.dial.Resolver(look_up, clock, size=2)
    for host in ("1.1.1.1", "2.2.2.2", "3.3.3.3", "1.1.1.1", "3.3.3.3"):
        await resolver.resolve(host, 80)
    assert asked == ["1.1.1.1", "2.2.2.2", "3.3.3.3", "1.1.1.1"]
    for host in ("none", "none", "empty", "empty"):
        with pytest.raises(socket.gaierror):
            await resolver.resolve(host, 80)
    assert asked[4:] == ["none", "none", "empty", "empty"]


async def test_an_unknown_name(clients):
    """A name that does not resolve is named in the error."""

    async def look_up(host, port):
        raise socket.gaierror(-2, "Name or service not known")

    client = clients(lookup=look_up)
    async with Upstream(answering(CANARY)) as upstream:
        sink = await client.ask(upstream, host="api.example")
        assert sink.error.message == "api.example cannot be resolved"


async def test_a_name_that_is_no_name(client):
    """A label that no resolver takes is an error like any other."""
    async with Upstream(answering(CANARY)) as upstream:
        sink = await client.ask(upstream, host="x" * 70 + ".example")
        assert sink.error.message == "x" * 70 + ".example cannot be resolved"


async def test_the_next_address_is_tried(clients):
    """An address that refuses, and a family that is not there, do not fail the rest."""

    async def look_up(host, port):
        return addresses(("::1", dead.port), ("127.0.0.1", dead.port), ("127.0.0.1", port))

    client = clients(lookup=look_up)
    async with Upstream(answering(CANARY)) as dead:
        pass
    async with Upstream(answering(CANARY)) as upstream:
        assert (await client.ask(upstream, host="api.example")).body == b"canary"


async def test_a_silent_address_does_not_hold_up_the_next(clients):
    """The second address gets its chance beside the first, and nothing of the loser stays."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:  # a full backlog swallows further SYNs
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())

    async def look_up(host, port):
        return addresses(listener.getsockname(), ("127.0.0.1", port))

    client = clients(lookup=look_up)
    try:
        async with Upstream(answering(CANARY)) as upstream:
            assert (await client.ask(upstream, host="api.example")).body == b"canary"
            await settled(lambda: len(asyncio.all_tasks()) <= 2)
    finally:
        for one in [listener, *fillers]:
            one.close()


def test_families_take_turns(room):
    """The resolver's first family leads."""
    six = addresses(("::1", 1), ("::2", 1))
    four = addresses(("1.1.1.1", 1), ("1.1.1.2", 1), ("1.1.1.3", 1))
    assert room.dial.interleave([*six, *four]) == [six[0], four[0], six[1], four[1], four[2]]
    assert room.dial.interleave([*four, *six])[:2] == [four[0], six[0]]


async def test_sockets_are_set_up(room):
    """No Nagle, keep-alive probes, and an end to bytes nobody acknowledges."""
    async with Upstream(answering(CANARY)) as upstream:
        where = addresses(("127.0.0.1", upstream.port))
        sock = await room.dial.open_socket(asyncio.get_running_loop(), where)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30000
        sock.close()


# -- TLS -----------------------------------------------------------------------------------------


CERTIFICATES_ONLY = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """A throw-away certificate authority in a folder."""

    def __init__(self, folder, name):
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._certify(self._name, self._key.public_key(), None, ca=True)
        self.file = str(folder / f"{name}.pem")
        (folder / f"{name}.pem").write_bytes(certificate)

    def _certify(self, subject, public_key, host, *, ca=False, days=1):
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=2))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            # Python 3.13 verifies strictly (RFC 5280): who signed, and that it may sign
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if ca:
            builder = builder.add_extension(CERTIFICATES_ONLY, critical=True)
        if host:
            try:
                name = x509.IPAddress(ipaddress.ip_address(host))
            except ValueError:
                name = x509.DNSName(host)
            builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def context(self, host, *, days=1, version=None):
        """Give a server context for one host."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
        path = self._folder / f"{host.replace(':', '_')}-{days}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + self._certify(subject, key.public_key(), host, days=days)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if version:
            context.minimum_version = context.maximum_version = version
        context.load_cert_chain(path)
        context.set_alpn_protocols(["http/1.1"])
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"), "trusted")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"), "stranger")


def loopback(host, port):
    async def done():
        return addresses(("127.0.0.1", port))

    return done()


@pytest.fixture
async def tls(clients):
    """A client whose every name leads to loopback."""
    return clients(lookup=loopback)


@pytest.mark.parametrize("host", ["api.example", "127.0.0.1"])
async def test_tls_with_an_extra_anchor(tls, authority, host):
    """Names and addresses are verified against the given anchor; ALPN and SNI are sent."""
    seen = []
    context = authority.context(host)
    context.sni_callback = lambda _, name, __: seen.append(name)
    options = {"scheme": "https", "host": host, "ca_file": authority.file}
    script = answering(CANARY)
    async with Upstream(script, tls=context) as upstream:
        body = b"x" * 300_000
        for turn in range(3):
            sink = await tls.ask(upstream, body=body, **options)
            assert (sink.outcome, sink.body) == ("end", b"canary")
            assert sink.attempt.reused is (turn > 0)
        assert [asked for _, asked in script.seen] == [body] * 3
        assert seen == [host if host == "api.example" else None]
        peer = upstream.peers[0].writer.get_extra_info("ssl_object")
        assert peer.selected_alpn_protocol() == "http/1.1"
        assert peer.version() == "TLSv1.3"


@pytest.mark.parametrize(
    ("host", "days", "ca", "reason"),
    [
        ("api.example", 1, None, "unable to get local issuer certificate"),
        ("api.example", 1, "stranger", "unable to get local issuer certificate"),
        ("other.example", 1, "authority", "Hostname mismatch"),
        ("api.example", -1, "authority", "certificate has expired"),
    ],
    ids=["no-anchor", "foreign-anchor", "wrong-name", "expired"],
)
async def test_untrusted_certificates_are_refused(request, tls, authority, host, days, ca, reason):
    """Nothing of the request leaves before the certificate is verified."""
    ca_file = request.getfixturevalue(ca).file if ca else None
    context = authority.context(host, days=days)
    script = answering(CANARY)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's handshake
    async with Upstream(script, tls=context) as upstream:
        sink = await tls.ask(upstream, scheme="https", host="api.example", ca_file=ca_file)
        assert isinstance(sink.error, UpstreamConnectError)
        assert sink.error.message.startswith(
            f"the TLS certificate of api.example is not trusted: {reason}"
        )
        assert not sink.error.billed
        assert script.seen == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_old_tls_is_refused(tls, authority):
    """TLS 1.2 is the least."""
    context = authority.context("api.example", version=ssl.TLSVersion.TLSv1_1)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's handshake
    async with Upstream(answering(CANARY), tls=context) as upstream:
        options = {"scheme": "https", "host": "api.example", "ca_file": authority.file}
        sink = await tls.ask(upstream, **options)
        assert sink.outcome == "UpstreamConnectError"
        assert not sink.error.billed


async def test_plain_http_on_a_tls_port(tls, authority):
    """A server that does not speak TLS is told apart from one that is not there."""

    async def script(peer):
        await peer.reader.read(10)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.close_sending()

    async with Upstream(script) as upstream:
        options = {"scheme": "https", "host": "api.example", "ca_file": authority.file}
        sink = await tls.ask(upstream, **options)
        assert sink.error.message == "the TLS handshake with api.example failed"


async def test_a_missing_anchor_file(tls, tmp_path):
    """The message does not say where it was looked for."""
    async with Upstream(answering(CANARY)) as upstream:
        missing = str(tmp_path / "none.pem")
        sink = await tls.ask(upstream, scheme="https", host="api.example", ca_file=missing)
        assert sink.error.message == "the CA file for api.example cannot be read"


def test_a_changed_anchor_file_is_read_again(room, authority, stranger, tmp_path):
    """A rotated file needs no restart; an unchanged one is not read twice."""
    trust = room.dial.Trust()
    path = tmp_path / "ca.pem"
    path.write_bytes(Path(authority.file).read_bytes())
    first = trust.context(str(path))
    assert trust.context(str(path)) is first
    path.write_text("no certificate")
    with pytest.raises(ssl.SSLError):
        trust.context(str(path))
    assert trust.context(None) is trust.context(None)
    for context in (first, trust.context(None)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


class HeldReading:
    """Reads anchors in its thread when it may."""

    def __init__(self, read) -> None:
        self._read = read
        self.threads = []
        self.go_on = threading.Event()

    def __call__(self, ca_file):
        self.threads.append(threading.current_thread())
        assert self.go_on.wait(10)
        return self._read(ca_file)


@pytest.fixture
def held(room, monkeypatch):
    reading = HeldReading(room.dial._read_anchors)
    monkeypatch.setattr(room.dial, "_read_anchors", reading)
    yield reading
    reading.go_on.set()


async def test_anchors_are_read_off_the_loop_and_once(clients, held, authority):
    """The loop goes on while they are read, and all who wait for them get the same ones."""
    client = clients(lookup=loopback)
    options = {"scheme": "https", "host": "api.example", "ca_file": authority.file}
    async with Upstream(answering(CANARY), tls=authority.context("api.example")) as upstream:
        sinks = [client.send(upstream, **options) for _ in range(8)]
        await settled(lambda: held.threads)
        assert held.threads != [threading.current_thread()]
        assert {sink.outcome for sink in sinks} == {"open"}
        held.go_on.set()
        for sink in sinks:
            assert (await sink.finished()).body == b"canary"
        assert len(held.threads) == 1


async def test_who_leaves_does_not_take_the_reading_along(room, held, authority):
    """One that is cancelled leaves the others waiting; with all gone an error is nobody's."""
    caught = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))
    trust = room.dial.Trust()
    first, second = (asyncio.ensure_future(trust.context_soon(authority.file)) for _ in range(2))
    await settled(lambda: held.threads)
    first.cancel()
    await asyncio.wait([first])
    held.go_on.set()
    assert await second is trust.context(authority.file)
    held.go_on.clear()

    broken = Path(authority.file).with_name("broken.pem")
    broken.write_text("no certificate")
    alone = asyncio.ensure_future(trust.context_soon(str(broken)))
    await settled(lambda: len(held.threads) == 2)
    alone.cancel()
    await asyncio.wait([alone])
    held.go_on.set()
    await settled(lambda: not trust._reading)
    gc.collect()
    await asyncio.sleep(0)
    assert not caught
    with pytest.raises(ssl.SSLError):
        await trust.context_soon(str(broken))


async def test_a_handshake_that_stalls_is_given_up(clients, clock, authority):
    """The connect time covers the handshake; the socket is closed."""

    async def script(peer):
        await peer.gone()

    client = clients(clock=clock, lookup=loopback)
    options = {"scheme": "https", "host": "api.example", "ca_file": authority.file}
    async with Upstream(script) as upstream:
        sink = client.send(upstream, **options)
        await settled(lambda: upstream.peers)
        clock.advance(61)
        await sink.finished()
        assert sink.error.message == ("no connection to api.example within 60 s (connect time-out)")
        await upstream.peers[0].over.wait()
        await settled(lambda: not client.origin(upstream, **options).dials)


async def test_few_handshakes_at_once(clients, authority, room):
    """The line waits for handshakes; all are served in the end."""
    client = clients(lookup=loopback)
    options = {"scheme": "https", "host": "api.example", "ca_file": authority.file}
    context = authority.context("api.example")
    async with Upstream(answering(CANARY), tls=context) as upstream:
        sinks = [client.send(upstream, **options) for _ in range(80)]
        assert len(client.origin(upstream, **options).dials) == room.pool.TLS_DIALS
        for sink in sinks:
            assert (await sink.finished()).body == b"canary"


async def test_a_cut_under_tls_is_no_end(tls, authority):
    """Without close_notify a body that only a close could end may be cut: it fails."""

    async def script(peer):
        _, body = await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await asyncio.sleep(0)
        if body == b"cut":
            peer.close()
        else:
            peer.writer.close()

    options = {"scheme": "https", "host": "api.example", "ca_file": authority.file}
    async with Upstream(script, tls=authority.context("api.example")) as upstream:
        sink = await tls.ask(upstream, body=b"cut", **options)
        assert (sink.outcome, sink.body) == ("UpstreamClosed", b"hello")
        sink = await tls.ask(upstream, body=b"closed", **options)
        assert (sink.outcome, sink.body) == ("end", b"hello")
