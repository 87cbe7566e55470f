"""Where a client is: its own address, or what trusted proxies say."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from fastgw.flow.addresses import client_of, is_within


@pytest.mark.parametrize(
    ("address", "networks", "within"),
    [
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("11.1.2.3", ("10.0.0.0/8",), False),
        ("10.1.2.3", ("192.168.0.0/16", "10.1.2.3"), True),
        ("::ffff:10.1.2.3", ("10.0.0.0/8",), True),
        ("2001:db8::1", ("2001:db8::/32",), True),
        ("fe80::1%eth0", ("fe80::/10",), True),
        ("2001:db8::1", ("10.0.0.0/8",), False),
        ("unix", ("0.0.0.0/0", "::/0"), False),
        ("", ("0.0.0.0/0",), False),
        ("10.1.2.3", ("nonsense",), False),
        ("10.1.2.3", ("10.1.2.9/8",), True),
    ],
)
def test_an_address_is_in_a_network(address, networks, within):
    """IPv4 on an IPv6 socket is IPv4; what is no address is nowhere, a broken rule for nobody."""
    assert is_within(address, networks) == within


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["9.9.9.9, 1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["9.9.9.9", "1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["1.2.3.4, 10.0.0.2"], "1.2.3.4"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        ("5.5.5.5", ["1.2.3.4"], "5.5.5.5"),
    ],
)
def test_only_trusted_proxies_are_believed(peer, forwarded, client):
    """The last address that no trusted proxy has is the client's; earlier ones are hearsay."""
    headers = CIMultiDict([("X-Forwarded-For", value) for value in forwarded])
    assert client_of(peer, headers, ("10.0.0.0/8",)) == client
    assert client_of(peer, headers, ()) == peer
