"""What the official clients send is canonical: the fast lane serves it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.answers import Answers
from tests.contract import clientele
from tests.contract.clientele import CLIENTS
from tests.contract.lane import CREDENTIAL, configuration
from tests.processes import Gateway, Mock

AGAIN = 150
"""How often each captured request is sent; the first of its kind leaves a plan behind."""
SHARE = 0.99


class Served:
    """A gateway on the fast lane before a provider of one API, and a key for it."""

    def __init__(self, api: str, folder: Path, template: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.mock = Mock(folder, "--api-key", CREDENTIAL)
        try:
            self._serve(api, folder, template)
        except BaseException:
            self.mock.stop()
            raise

    def _serve(self, api: str, folder: Path, template: Path) -> None:
        config = configuration(self.mock)
        if api == "anthropic":
            config = {"providers": [anthropic(self.mock)]}
        store = folder / "fastgw.db"
        store.write_bytes(template.read_bytes())
        self.gateway = Gateway(folder, f"sqlite:///{store}", config)
        self.gateway.ready()
        self.key = self.gateway.create_key("clients")

    def stop(self) -> None:
        """End both processes."""
        self.gateway.stop()
        self.mock.stop()


def anthropic(mock: Mock) -> dict[str, object]:
    """Give a provider that speaks Anthropic's API."""
    return {
        "name": "anthropic",
        "type": "anthropic",
        "base_url": mock.base_url.removesuffix("/v1"),
        "api_key": CREDENTIAL,
        "models": ["claude"],
    }


@pytest.fixture(scope="module")
def serve(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Served]]:
    """Give what serves an API; it is started once."""
    folder = tmp_path_factory.mktemp("clients")
    started: dict[str, Served] = {}

    def give(api: str) -> Served:
        if api not in started:
            started[api] = Served(api, folder / api, sqlite_template)
        return started[api]

    yield give
    for served in started.values():
        served.stop()


def lanes(gateway: Gateway) -> dict[str, float]:
    """Give how many requests each lane has served."""
    text = gateway.get("/metrics")[1].decode()
    counted: dict[str, float] = {}
    for name, value in re.findall(r'fastgw_lane_total\{[^}]*lane="(\w+)"[^}]*\} (\S+)', text):
        counted[name] = counted.get(name, 0) + float(value)
    return counted


def send_again(url: str, request: bytes, times: int) -> None:
    """Send a captured request again and again on one connection; each must be answered 200."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as plug:
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = Answers()
        for number in range(1, times + 1):
            plug.sendall(request)
            while sum(answer.whole for answer in answers.answers) < number:
                data = plug.recv(1 << 16)
                assert data, "the gateway closed the connection"
                answers.feed(data)
                assert not answers.fault, answers.fault
            assert answers.answers[-1].status == 200, answers.answers[-1]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_real_client_takes_the_fast_lane(client, serve, record_property):
    """Captured as it really sends them, at least 99 of 100 requests stay out of the other lane."""
    served_by = serve(client.api)
    gateway, key = served_by.gateway, served_by.key
    with clientele.tapped(gateway.url) as tap:
        try:
            version = clientele.run(client, tap.url, key)
        except clientele.CannotInstallError as reason:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{client.name}: {reason}")
    assert tap.taken
    before = lanes(gateway)
    for request in tap.taken:
        send_again(gateway.url, request, AGAIN)
    after = lanes(gateway)
    served = {lane: count - before.get(lane, 0) for lane, count in after.items()}
    total = sum(served.values())
    assert total == len(tap.taken) * AGAIN
    share = served.get("fast", 0) / total
    told = f"{client.name} {version}: {share:.1%} of {total:.0f} requests in the fast lane"
    record_property("table", told)
    assert share >= SHARE, f"{told}: {served}\n{tap.taken[0][:600]!r}"
