"""Judging, comparing and fetching price files."""

from __future__ import annotations

import gzip
import json

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from fastgw.catalog.facts import CatalogError, ModelFacts
from fastgw.catalog.sync import (
    diff,
    fetch,
    judge,
    read_source,
    refuse_loss,
    shown,
)
from fastgw.domain import Price

GOOD = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-6}


def models(*facts):
    return {(f.provider, f.name): f for f in facts}


def facts(name, **fields):
    return ModelFacts(provider="openai", name=name, **fields)


# -- judging


def test_a_mostly_wrong_file_is_refused():
    """More wrong than right entries: not a price file; the first fault is named."""
    with pytest.raises(CatalogError, match=r"2 of 3 entries are wrong.*'b'.*not an object"):
        judge(json.dumps({"a": GOOD, "b": 1, "c": "x"}).encode())


def test_a_file_with_a_few_faults_is_taken():
    """Half right is enough; what was skipped is named."""
    reading = judge(json.dumps({"a": GOOD, "b": 1}).encode())
    assert [problem.name for problem in reading.problems] == ["b"]


@pytest.mark.parametrize("content", [b"{}", b'{"sample_spec":{}}', b" " * (32 * 2**20 + 1)])
def test_an_empty_or_huge_file_is_refused(content):
    """Nothing to sync from is an error, not a reason to deprecate everything."""
    with pytest.raises(CatalogError):
        judge(content)


# -- comparing


def test_diff_names_every_kind_of_change():
    """Added, changed with before and after, left out: each is listed once, in order."""
    old = models(
        facts("same", price=Price(input=1)),
        facts("dearer", price=Price(input=1, output=5), context_window=100),
        facts("gone"),
        facts("long gone", deprecated_at=5),
        facts("unpriced", price=Price(input=7)),
    )
    new = models(
        facts("unpriced"),
        facts("same", price=Price(input=1)),
        facts("new", price=Price(input=3)),
        facts("dearer", price=Price(input=2, output=5), context_window=200, extra={"x_cost": 1}),
    )
    changes = diff(old, new)
    assert [f.name for f in changes.added] == ["new"]
    assert [f.name for f in changes.updated] == ["dearer", "unpriced"]
    assert [(c.name, c.field, c.before, c.after) for c in changes.changed[:3]] == [
        ("dearer", "context_window", 100, 200),
        ("dearer", "extra.x_cost", None, 1),
        ("dearer", "price.input", 1, 2),
    ]
    assert ("unpriced", "price.input", 7, None) in [
        (c.name, c.field, c.before, c.after) for c in changes.changed
    ]
    assert changes.deprecated == (("openai", "gone"),)


FACTS = st.builds(
    ModelFacts,
    provider=st.sampled_from(["a", "b"]),
    name=st.sampled_from(["m", "n", "o"]),
    context_window=st.none() | st.integers(1, 3),
    price=st.none() | st.builds(Price, input=st.integers(0, 2), cached=st.none() | st.just(1)),
    deprecated_at=st.none() | st.integers(1, 2),
)
CATALOGUES = st.lists(FACTS, max_size=6).map(lambda some: models(*some))


@given(CATALOGUES, CATALOGUES)
def test_applying_a_diff_gives_the_new_catalogue_and_then_nothing_changes(old, new):
    """old + changes = new + the deprecated; a second sync of the same file is empty."""
    changes = diff(old, new)
    applied = dict(old) | models(*changes.added, *changes.updated)
    for key in changes.deprecated:
        applied[key] = msgspec.structs.replace(applied[key], deprecated_at=9)
    assert {key: applied[key] for key in new} == new
    assert set(applied) == set(old) | set(new)
    assert not diff(applied, new)


def test_a_model_that_comes_back_is_no_longer_deprecated():
    """The file names it again: its mark goes."""
    changes = diff(models(facts("m", deprecated_at=9)), models(facts("m")))
    assert [(c.field, c.before, c.after) for c in changes.changed] == [("deprecated_at", 9, None)]


def test_a_fragment_does_not_replace_a_catalogue():
    """A file that leaves out most models is refused; a small catalogue may change freely."""
    old = models(*(facts(f"m{i}") for i in range(30)))
    fragment = models(facts("m0"))
    with pytest.raises(CatalogError, match="leaves out 29 of 30"):
        refuse_loss(old, diff(old, fragment))
    half = models(*(facts(f"m{i}") for i in range(15)))
    refuse_loss(old, diff(old, half))
    few = models(*(facts(f"m{i}") for i in range(5)))
    refuse_loss(few, diff(few, fragment))


# -- fetching


@pytest.fixture
async def site(unused_tcp_port_factory):
    """A web site on loopback that serves what a test tells it to."""
    answers = {}

    async def serve(request):
        return answers[request.path](request)

    app = web.Application()
    app.router.add_get("/{any:.*}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    port = unused_tcp_port_factory()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    answers["url"] = f"http://127.0.0.1:{port}"
    yield answers
    await runner.cleanup()


async def test_fetch_from_loopback_and_through_a_redirect(site):
    """A local file server works, and a redirect within it is followed."""
    site["/prices"] = lambda _: web.Response(body=b"{}")
    site["/old"] = lambda _: web.Response(status=302, headers={"location": "/prices"})
    assert await fetch(site["url"] + "/prices") == b"{}"
    assert await fetch(site["url"] + "/old") == b"{}"


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (404, {}, "answers 404"),
        (302, {"location": "https://example.com/x?q=1"}, "redirects to https://example.com/x,"),
        (302, {"location": "file:///etc/passwd"}, "redirects to .*not followed"),
        (302, {"location": "/bad"}, "redirects more than 3 times"),
    ],
)
async def test_fetch_refuses_answers_that_are_no_file(site, status, headers, said):
    """Errors, redirects elsewhere and loops are named; nothing of their body is used."""
    site["/bad"] = lambda _: web.Response(status=status, headers=headers, body=b"{}")
    with pytest.raises(CatalogError, match=said):
        await fetch(site["url"] + "/bad")


async def test_fetch_caps_the_unpacked_size(site):
    """A small packed answer that unpacks to more than the cap is cut off, not held in memory."""
    site["/bomb"] = lambda _: web.Response(
        body=gzip.compress(b" " * (4 << 20)), headers={"content-encoding": "gzip"}
    )
    with pytest.raises(CatalogError, match="larger than 1 MiB"):
        await fetch(site["url"] + "/bomb", largest=1 << 20)


async def test_fetch_gives_up_on_a_silent_site(unused_tcp_port_factory):
    """A site that accepts and says nothing costs the time-out, no more."""
    import asyncio

    over = asyncio.Event()

    async def silent(_reader, writer):
        await over.wait()
        writer.close()

    port = unused_tcp_port_factory()
    async with await asyncio.start_server(silent, "127.0.0.1", port):
        with pytest.raises(CatalogError, match="did not answer within"):
            await fetch(f"http://127.0.0.1:{port}/", timeout_s=0.2)
        over.set()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "https://user:secret@example.com/",
        "http://127.0.0.1.example.com/",
        "http://10.0.0.1/",
        "nonsense",
        "https://[::",
        "",
    ],
)
async def test_fetch_refuses_addresses_before_it_connects(url):
    """Only https, or this machine itself; a credential in the address is not repeated."""
    with pytest.raises(CatalogError) as failed:
        await fetch(url)
    assert "secret" not in str(failed.value)


def test_shown_addresses_hold_no_secret():
    """What is printed and kept of an address has neither credential nor query."""
    assert shown("https://user:secret@example.com/x?token=secret#secret") == "https://example.com/x"
    assert "secret" not in shown("https://[secret")


def test_read_source(tmp_path):
    """A file on disk is read; a missing one is one line."""
    (tmp_path / "f").write_bytes(b"{}")
    assert read_source(tmp_path / "f") == b"{}"
    with pytest.raises(CatalogError, match="No such file"):
        read_source(tmp_path / "g")
