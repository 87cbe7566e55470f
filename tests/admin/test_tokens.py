"""Access tokens: only ours, unaltered and in time. Everything else is a 401, and never a 500."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator

import jwt
import pytest

from fastgw.admin.tokens import LIFETIME_S, Tokens
from fastgw.domain import Secret
from fastgw.errors import InvalidAdminToken
from fastgw.storage.sql import keys
from tests.admin.conftest import SECRET
from tests.corpora import shared

TOKENS = Tokens(SECRET)
KID = TOKENS._headers["kid"]


def encode(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**changes: object) -> dict[str, object]:
    now = int(time.time())
    whole = {
        "iss": "fastgw",
        "aud": "fastgw-admin",
        "iat": now,
        "exp": now + 600,
        "sub": "admin_x",
        "ver": 1,
        "sid": "session_x",
    } | changes
    return {name: value for name, value in whole.items() if value is not None}


def forge(payload: object, header: dict[str, object] | None = None, key: bytes = b"") -> str:
    """Make a token with a right HMAC, by our own key unless told otherwise."""
    head = TOKENS._head if header is None else encode(header)
    signed = f"{head}.{encode(payload)}"
    mac = hmac.new(key or TOKENS._key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encode(mac)}"


def own(header: dict[str, object], payload: object | None = None) -> str:
    return forge(claims() if payload is None else payload, header)


def attacks() -> Iterator[tuple[str, str]]:
    """Name and token of each attack of our own."""
    good = TOKENS.issue("admin_x", 1, "session_x")
    head, payload, mac = good.split(".")
    base = {"alg": "HS256", "kid": KID, "typ": "at+jwt"}
    for none in ("none", "None", "nOnE", "NONE", ""):
        yield f"alg {none!r}", f"{encode(base | {'alg': none})}.{payload}."
        yield f"alg {none!r} with signature", f"{encode(base | {'alg': none})}.{payload}.{mac}"
    for other in ("HS384", "HS512", "RS256", "ES256", "EdDSA", "hs256"):
        yield f"alg {other}", own(base | {"alg": other})
    for kid in ("../../../dev/null", "' OR 1=1 --", "http://127.0.0.1:9/key", "", "0", None, [KID]):
        yield f"kid {kid!r}", own(base | {"kid": kid})
    yield "no kid", own({"alg": "HS256", "typ": "at+jwt"})
    yield "no typ", own({"alg": "HS256", "kid": KID})
    for typ in ("JWT", "at+JWT", "application/at+jwt", None):
        yield f"typ {typ!r}", own(base | {"typ": typ})
    for name in ("jku", "x5u"):
        yield name, own(base | {name: "http://127.0.0.1:9/keys.json"})
    yield "jwk", own(base | {"jwk": {"kty": "oct", "k": encode(b"x" * 32)}})
    yield "crit", own(base | {"crit": ["exp"]})
    yield "b64", own(base | {"b64": False, "crit": ["b64"]})
    yield "zip", own(base | {"zip": "DEF"})
    yield "empty key", forge(claims(), base, b"\0")
    yield "the secret itself as key", forge(claims(), base, SECRET.reveal().encode())
    yield "kid as key", forge(claims(), base, KID.encode())
    now = int(time.time())
    for name, changes in {
        "iss other": {"iss": "evil"},
        "iss missing": {"iss": None},
        "aud other": {"aud": "fastgw"},
        "aud missing": {"aud": None},
        "aud list": {"aud": ["fastgw-admin", "evil"]},
        "exp missing": {"exp": None},
        "exp past": {"exp": now - 10},
        "exp text": {"exp": str(now + 600)},
        "exp float": {"exp": now + 600.5},
        "exp huge": {"exp": 10**400},
        "exp too far": {"exp": now + LIFETIME_S + 1},
        "exp true": {"exp": True},
        "iat missing": {"iat": None},
        "iat future": {"iat": now + 600},
        "nbf future": {"nbf": now + 600},
        "sub missing": {"sub": None},
        "sub number": {"sub": 7},
        "ver missing": {"ver": None},
        "ver text": {"ver": "1"},
        "sid missing": {"sid": None},
        "sid list": {"sid": ["session_x"]},
        "role added": {"role": "admin"},
    }.items():
        yield name, forge(claims(**changes))
    for name, value in {"list": [claims()], "text": "x", "null": None, "not JSON": b"{"}.items():
        yield f"payload {name}", forge(value)
    yield "payload deep", forge(b"[" * 1200 + b"]" * 1200)
    altered = json.loads(base64.urlsafe_b64decode(payload + "=="))
    yield "payload altered", f"{head}.{encode(altered | {'sub': 'admin_y'})}.{mac}"
    yield "signature altered", f"{head}.{payload}.{('A' if mac[0] != 'A' else 'B') + mac[1:]}"
    yield "signature cut", good[:-1]
    yield "signature empty", f"{head}.{payload}."
    yield "two parts", f"{head}.{payload}"
    yield "four parts", f"{good}.{mac}"
    yield "header deep", f"{encode(b'[' * 2000)}.{payload}.{mac}"
    yield (
        "JSON serialization",
        json.dumps({"protected": head, "payload": payload, "signature": mac}),
    )
    yield "nothing", "."
    yield "not ASCII", good + "é"
    yield "long", good + "A" * 4000


ATTACKS = dict(attacks())


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(name):
    """By the reader itself, whatever the database says."""
    with pytest.raises(InvalidAdminToken):
        TOKENS.read(ATTACKS[name])


def test_what_is_issued_is_read():
    """For one account, version and login, within the hour; the forger above forges well."""
    read = TOKENS.read(TOKENS.issue("admin_x", 3, "session_x"))
    assert (read.sub, read.ver, read.sid) == ("admin_x", 3, "session_x")
    assert read.exp - read.iat == LIFETIME_S <= 24 * 3600
    assert TOKENS.read(forge(claims())).sub == "admin_x"
    assert jwt.get_unverified_header(TOKENS.issue("a", 1, "s"))["alg"] == "HS256"


def test_another_installation_reads_no_tokens_of_ours():
    """Another secret is another key and another kid."""
    with pytest.raises(InvalidAdminToken):
        Tokens(Secret("another secret of another one")).read(TOKENS.issue("a", 1, "s"))


async def test_attacks_over_http(one_api):
    """All are 401 in the admin API's shape."""
    for name, token in ATTACKS.items():
        if token.isascii() and "\n" not in token:
            assert (await one_api.me(token)).status == 401, name


async def test_every_invalid_vector_of_wycheproof(one_api):
    """376 tokens that any reader must refuse, and 51 valid ones, which are not ours."""
    folder = shared("jws_wycheproof")
    seen = {"valid": 0, "invalid": 0}
    for name in ("json_web_signature_test.json", "json_web_key_test.json"):
        for group in json.loads((folder / name).read_text())["testGroups"]:
            for test in group["tests"]:
                token = test["jws"] if isinstance(test["jws"], str) else json.dumps(test["jws"])
                answer = await one_api.me(token)
                assert (answer.status, answer.code) == (401, "invalid_token"), test["comment"]
                seen[test["result"]] += 1
    assert seen == {"invalid": 376, "valid": 51}


async def test_a_key_of_the_data_plane_is_no_token(api, root):
    """Nor is a token of ours another kind of credential."""
    _, key = await keys.create(api.store, name="client")
    assert (await api.me(key.reveal())).status == 401
    token = (await api.login()).json["access_token"]
    good = {"authorization": f"bearer {token}"}
    assert (await api.ask("GET", "/admin/me", headers=good)).status == 200
    for headers in (
        {"x-api-key": token},
        {"authorization": f"Basic {token}"},
        {"authorization": token},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"cookie": f"access_token={token}"},
    ):
        assert (await api.ask("GET", "/admin/me", headers=headers)).status == 401, headers
    assert (await api.ask("GET", f"/admin/me?access_token={token}")).status == 401


async def test_bytes_that_are_no_text(one_api):
    """A header of any bytes is a 401."""
    for raw in ("\udcff\udcfe.\udc80.x", "é.é.é"):
        answer = await one_api.ask("GET", "/admin/me", headers={"authorization": f"Bearer {raw}"})
        assert answer.status == 401
