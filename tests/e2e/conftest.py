"""One mock and one gateway for each engine serve all end-to-end tests that change no settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Gateway, Mock

CREDENTIAL = "sk-upstream-credential-1234"


@pytest.fixture(scope="session")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    """The mock provider, as a process."""
    mock = Mock(tmp_path_factory.mktemp("mock"), "--api-key", CREDENTIAL)
    yield mock
    mock.stop()


def configuration(mock: Mock) -> dict[str, object]:
    """Give the configuration that most tests serve by."""
    return {
        "providers": [
            {
                "name": "mock",
                "type": "openai_compatible",
                "base_url": mock.base_url,
                "api_key": CREDENTIAL,
                "models": ["mock", "mock-tools", "mock-429", "mock-500", "other/name"],
                "timeouts": {"connect_s": 2, "first_byte_s": 1, "idle_s": 1, "total_s": 20},
            },
            {
                "name": "claude",
                "type": "anthropic",
                "base_url": mock.base_url.removesuffix("/v1"),
                "api_key": CREDENTIAL,
                "models": ["claude-mock"],
                "timeouts": {"connect_s": 2, "first_byte_s": 1, "idle_s": 1, "total_s": 20},
            },
            {
                "name": "down",
                "type": "openai_compatible",
                "base_url": "http://127.0.0.1:9/v1",
                "models": ["nowhere"],
            },
        ],
        "models": [
            {"name": "smart", "deployments": [{"provider": "mock", "model": "mock?chunks=7"}]},
            {
                "name": "sturdy",
                "deployments": [
                    {"provider": "down", "model": "mock"},
                    {"provider": "mock", "model": "mock-500"},
                    {"provider": "mock", "model": "mock"},
                ],
            },
        ],
        "aliases": [{"name": "fast", "model": "smart", "tags": {"via": "fast"}}],
        "server": {"max_body_bytes": 1 << 20, "shutdown_grace_s": 5},
    }


@pytest.fixture(scope="session")
def gateway(
    session_store_url: str, mock: Mock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that nobody reconfigures."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), session_store_url, configuration(mock))
    gateway.ready()
    yield gateway
    assert gateway.stop() == 0, gateway.text
    assert "Traceback" not in gateway.text


@pytest.fixture(scope="session")
def key(gateway: Gateway) -> str:
    """A key that may do everything."""
    return gateway.create_key("everything")


@pytest.fixture
def own_gateway(store_url: str, mock: Mock, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway for one test, to be signalled and reconfigured."""
    gateway = Gateway(tmp_path, store_url, configuration(mock))
    gateway.ready()
    yield gateway
    gateway.stop()
