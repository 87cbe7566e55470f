"""One gateway for each lane, with short time-outs, and a provider that answers what it is told."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.adversity.wire.canned import Canned
from tests.processes import Gateway

LANES = ("standard", "fast")
HEADER_S = BODY_S = KEEPALIVE_S = WRITE_S = 1.0
MAX_BODY = 1 << 20


@pytest.fixture(scope="session", params=LANES)
def lane(request: pytest.FixtureRequest) -> str:
    """The lane that a server is to use."""
    return request.param


@pytest.fixture(scope="session")
def provider() -> Iterator[Canned]:
    """A provider whose answers are looked up by the model's name."""
    with Canned() as canned:
        yield canned


@pytest.fixture(scope="session")
def gateway(
    lane: str, provider: Canned, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with one worker."""
    folder = tmp_path_factory.mktemp(f"wire-{lane}")
    database = folder / "fastgw.db"
    database.write_bytes(sqlite_template.read_bytes())
    gateway = Gateway(folder, f"sqlite:///{database}", configuration(provider, lane))
    gateway.ready()
    yield gateway
    assert gateway.stop() == 0, gateway.text
    assert "Traceback" not in gateway.text


def configuration(provider: Canned, lane: str) -> dict[str, object]:
    """Give what the gateway is started with."""
    account = {
        "name": "canned",
        "type": "openai_compatible",
        "base_url": provider.url + "/v1",
        "api_key": "sk-canned-credential-1234",
        "timeouts": {"connect_s": 2, "first_byte_s": 1, "idle_s": 1, "total_s": 10},
    }
    return {
        "server": {
            "header_timeout_s": HEADER_S,
            "body_timeout_s": BODY_S,
            "keepalive_timeout_s": KEEPALIVE_S,
            "write_timeout_s": WRITE_S,
            "max_body_bytes": MAX_BODY,
            "shutdown_grace_s": 2,
            "fast_lane": lane == "fast",
        },
        "providers": [account, {**account, "name": "brief", "timeouts": {"total_s": 0.5}}],
    }


@pytest.fixture(scope="session")
def port(gateway: Gateway) -> int:
    """Where the gateway listens."""
    port = urlsplit(gateway.url).port
    assert port is not None
    return port


@pytest.fixture(scope="session")
def key(gateway: Gateway) -> str:
    """A key that may do everything."""
    return gateway.create_key("wire")


@pytest.fixture(scope="session", autouse=True)
def many_descriptors() -> None:
    """Let this process open as many connections as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
