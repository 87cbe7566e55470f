"""`providers test` says precisely what is wrong: name, network, TLS, credential, listing."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fastgw.cli.probe import probe, sum_up
from fastgw.domain import Provider, Secret

RIGHT = "sk-right"


def provider(base_url, **fields):
    fields = {"credential": Secret(RIGHT)} | fields
    return Provider(name="p", type="openai_compatible", base_url=base_url, **fields)


async def findings(base_url, timeout_s=5.0, **fields):
    """Give what each step said: {name: (ok, detail)}, in order."""
    steps = await probe(provider(base_url, **fields), timeout_s)
    assert [step.name for step in steps] == ["dns", "tcp", "tls", "credential", "models"]
    return {step.name: (step.ok, step.detail) for step in steps}


@pytest.fixture
async def serve(unused_tcp_port_factory):
    """Serve one handler under /v1/models; gives its base URL."""
    runners = []

    async def start(handler, context=None):
        app = web.Application()
        app.router.add_get("/v1/models", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        port = unused_tcp_port_factory()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
        return f"{'https' if context else 'http'}://127.0.0.1:{port}/v1"

    yield start
    for runner in runners:
        await runner.cleanup()


def listing(request):
    if request.headers.get("authorization") != f"Bearer {RIGHT}":
        return web.json_response({"error": {"message": "no"}}, status=401)
    return web.json_response({"data": [{"id": "a"}, {"id": "models/b"}]})


async def handle(request):
    return listing(request)


async def test_all_is_well(serve):
    """Every step is reached; plain http has no TLS to speak of."""
    found = await findings(await serve(handle), models=("a", "b"))
    assert found["dns"] == (True, "127.0.0.1")
    assert found["tcp"][0]
    assert found["tls"] == (None, "plain http")
    assert found["credential"] == (True, "accepted")
    assert found["models"] == (True, "2 listed")


@pytest.mark.parametrize(
    ("credential", "said"),
    [(Secret("sk-wrong"), "refused with 401"), (None, "refused with 401; none is stored")],
)
async def test_a_wrong_credential(serve, credential, said):
    """401 is the credential's fault, and the line says when there is none; it is not repeated."""
    found = await findings(await serve(handle), credential=credential)
    assert found["credential"] == (False, said)
    assert found["models"] == (None, "not reached")


async def test_a_configured_model_that_is_not_listed(serve):
    """A model we would route to it and it does not list is named."""
    found = await findings(await serve(handle), models=("a", "z"))
    assert found["models"] == (False, "2 listed, not among them: z")


@pytest.mark.parametrize(
    ("status", "body", "ok", "said"),
    [
        (404, "", False, "is the path of base_url right?"),
        (429, "", True, "limits us"),
        (500, "", False, "answers 500"),
        (302, "", False, "answers 302"),
        (200, "<html>login</html>", False, "no list"),
        (200, '{"data": 7}', False, "no list"),
        (200, "[" * 5000, False, "no list"),
    ],
)
async def test_odd_answers(serve, status, body, ok, said):
    """Each answer that is no list is told apart; redirects are not followed."""

    async def odd(_):
        return web.Response(status=status, text=body, headers={"location": "http://127.0.0.1:1"})

    found = await findings(await serve(odd))
    assert found["models"][0] is ok
    assert said in found["models"][1]


async def test_an_endless_answer_is_cut_off(serve):
    """A provider that does not stop talking does not fill our memory."""

    async def endless(request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"x" * 65536)
        except ConnectionError:
            return answer

    found = await findings(await serve(endless))
    assert found["models"][0] is False


async def test_names_that_do_not_resolve():
    """DNS is the first step; a name that cannot be asked for is no defect."""
    for host in ("nosuchhost.invalid", "a" * 70 + ".invalid"):
        found = await findings(f"http://{host}/v1")
        assert found["dns"][0] is False
        assert host in found["dns"][1]
        assert found["tcp"] == (None, "not reached")


async def test_nobody_listens(unused_tcp_port):
    """A refused connection is said in the system's words."""
    found = await findings(f"http://127.0.0.1:{unused_tcp_port}/v1")
    assert found["tcp"] == (False, f"127.0.0.1 port {unused_tcp_port}: Connection refused")


async def bare(handler, port):
    """Serve raw bytes."""
    return await asyncio.start_server(handler, "127.0.0.1", port)


async def test_a_silent_provider(unused_tcp_port):
    """Accepting and saying nothing ends at the time-out, in the step that waits."""
    over = asyncio.Event()

    async def silent(_reader, writer):
        await over.wait()
        writer.close()

    async with await bare(silent, unused_tcp_port):
        plain = await findings(f"http://127.0.0.1:{unused_tcp_port}/v1", 0.3)
        secure = await findings(f"https://127.0.0.1:{unused_tcp_port}/v1", 0.3)
        over.set()
    assert plain["models"] == (False, "no answer within 0.3 s")
    assert secure["tcp"][0] is False
    assert "within 0.3 s" in secure["tcp"][1]


async def test_http_where_tls_is_expected(serve):
    """https:// to a plain server fails in the TLS step."""
    url = await serve(handle)
    found = await findings(url.replace("http://", "https://"))
    assert found["tcp"][0]
    assert found["tls"][0] is False


async def test_garbage_instead_of_http(unused_tcp_port):
    """What is no HTTP is said to be none."""

    async def garbage(reader, writer):
        await reader.read(1)
        writer.write(b"SSH-2.0-OpenSSH_9\r\n\r\n")
        writer.close()

    async with await bare(garbage, unused_tcp_port):
        found = await findings(f"http://127.0.0.1:{unused_tcp_port}/v1")
    assert found["models"][0] is False
    assert "no valid HTTP" in found["models"][1]


@pytest.fixture
def certificate(tmp_path):
    """A self-signed certificate for 127.0.0.1: its file, and a server context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fastgw test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "cert.pem"
    pem.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return pem, context


async def test_a_certificate_that_nobody_vouches_for(serve, certificate):
    """Verification stays on: the TLS step fails in OpenSSL's words, the credential is not sent."""
    pem, context = certificate
    asked = []

    async def note(request):
        asked.append(request)
        return listing(request)

    url = await serve(note, context)
    found = await findings(url)
    assert found["tls"] == (False, "self-signed certificate")
    assert asked == []
    vouched = await findings(url, ca_file=str(pem))
    assert vouched["tls"] == (True, "TLSv1.3")
    assert vouched["models"][0] is True
    missing = await findings(url, ca_file="/no/such/file.pem")
    assert missing["tls"][0] is False
    assert "/no/such/file.pem" in missing["tls"][1]


async def test_sum_up(serve, unused_tcp_port):
    """`check` has one line a provider: what failed, else that all is well."""
    url = await serve(handle)
    assert sum_up(await probe(provider(url))).detail == "accepted; 2 listed"
    failed = sum_up(await probe(provider(f"http://127.0.0.1:{unused_tcp_port}/v1")))
    assert failed.ok is False
    assert failed.detail.startswith("tcp: ")
