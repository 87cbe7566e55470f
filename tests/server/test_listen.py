"""Listening sockets: every form of address, and a clear word when one cannot be had."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from fastgw.config.listen import parse_address
from fastgw.errors import CannotStart
from fastgw.server.listen import bind


def open_all(texts, workers=1):
    return bind([parse_address(text) for text in texts], workers)


def close_all(shares):
    for sock in {sock for share in shares for sock in share}:
        sock.close()


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def accepts(address, family, shares):
    """Tell whether a connection to the address arrives at one of the sockets."""
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(address)
        found = []

        def take(sock):
            sock.settimeout(2)
            try:
                found.append(sock.accept()[0])
            except OSError:
                return

        takers = [threading.Thread(target=take, args=(share[0],)) for share in shares]
        for each in takers:
            each.start()
        for each in takers:
            each.join()
        for each in found:
            each.close()
        return len(found)


def test_every_worker_has_a_queue_of_its_own_on_one_tcp_port():
    """Port 0 is chosen once, and each worker's socket listens on it."""
    shares = open_all(["127.0.0.1:0"], workers=3)
    try:
        assert [len(share) for share in shares] == [1, 1, 1]
        assert len({share[0].getsockname() for share in shares}) == 1
        assert len({share[0].fileno() for share in shares}) == 3
        assert all(share[0].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for share in shares)
    finally:
        close_all(shares)


def test_ipv6_and_several_addresses():
    """An IPv6 wildcard leaves IPv4 alone, so both can be given."""
    shares = open_all(["[::1]:0", "127.0.0.1:0"])
    try:
        first, second = shares[0]
        assert first.family == socket.AF_INET6
        assert first.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        assert accepts(first.getsockname(), socket.AF_INET6, [[first]]) == 1
        assert accepts(second.getsockname(), socket.AF_INET, [[second]]) == 1
    finally:
        close_all(shares)


def test_a_unix_socket_is_one_queue_for_all(tmp_path):
    """Workers share the socket itself."""
    path = str(tmp_path / "s")
    shares = open_all([f"unix:{path}"], workers=2)
    try:
        assert shares[0][0] is shares[1][0]
        assert accepts(path, socket.AF_UNIX, [shares[0]]) == 1
    finally:
        close_all(shares)


def test_a_unix_socket_left_behind_is_replaced_and_a_served_one_is_not(tmp_path):
    """A killed process leaves the file; a live one must not lose its clients to us."""
    path = str(tmp_path / "s")
    first = open_all([f"unix:{path}"])
    with pytest.raises(CannotStart, match=rf"cannot listen on unix:{path}: Address already in use"):
        open_all([f"unix:{path}"])
    close_all(first)
    second = open_all([f"unix:{path}"])
    try:
        assert accepts(path, socket.AF_UNIX, second) == 1
    finally:
        close_all(second)


def test_a_file_in_the_way_is_not_removed(tmp_path):
    """Only sockets are replaced."""
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(CannotStart, match="in use"):
        open_all([f"unix:{path}"])
    assert path.read_text() == "data"


def test_an_inherited_descriptor():
    """As a service manager gives it: bound, listening or not."""
    given = socket.socket()
    given.bind(("127.0.0.1", 0))
    descriptor = os.dup(given.fileno())
    shares = open_all([f"fd://{descriptor}"], workers=2)
    try:
        assert shares[0][0] is shares[1][0]
        assert accepts(given.getsockname(), socket.AF_INET, [shares[0]]) == 1
    finally:
        close_all(shares)
        given.close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:{busy}", "Address already in use"),
        ("192.0.2.1:8080", "Cannot assign requested address"),
        ("no-such-host.invalid:80", "not known|name resolution"),
        ("unix:/no/such/folder/s", "No such file"),
        ("fd://987", "Bad file descriptor"),
        ("fd://{file}", "not a socket|non-socket"),
        ("fd://{connected}", "Invalid argument"),
    ],
)
def test_an_address_that_cannot_be_had_is_named(tmp_path, address, reason):
    """One line says which and why; what was opened before it is closed again."""
    ours, theirs = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as busy, (tmp_path / "f").open("w") as file:
        text = address.format(
            busy=busy.getsockname()[1], file=file.fileno(), connected=os.dup(ours.fileno())
        )
        before = open_files()
        with pytest.raises(CannotStart, match=reason) as caught:
            open_all(["127.0.0.1:0", text], workers=2)
        assert str(caught.value).startswith(f"cannot listen on {text}: ")
        assert "\n" not in str(caught.value)
        assert open_files() <= before
    ours.close()
    theirs.close()


def test_a_port_shared_by_reuseport_is_still_refused():
    """Two gateways must not share a port by accident, although workers do."""
    shares = open_all(["127.0.0.1:0"], workers=2)
    port = shares[0][0].getsockname()[1]
    try:
        with pytest.raises(CannotStart, match="in use"):
            open_all([f"127.0.0.1:{port}"])
    finally:
        close_all(shares)
