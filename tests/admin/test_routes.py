"""The route table and the shape of every answer."""

from __future__ import annotations

import io
import json

import pytest
from aiohttp import web

from fastgw.admin.app import ROUTES, Role, Route, make_admin
from fastgw.storage.sql import admins
from tests.admin.conftest import EMAIL, PASSWORD, SECRET, served

LOGIN = "/admin/auth/login"
JSON = {"content-type": "application/json"}
RIGHT = {"email": EMAIL, "password": PASSWORD}


async def handler(_: web.Request) -> web.Response:
    return web.Response()


def test_a_route_without_a_role_cannot_be_made():
    """Default deny: forgetting the role is an error at start."""
    with pytest.raises(TypeError):
        Route("GET", "/open", handler=handler)
    for role in (None, "admin", 3, True):
        with pytest.raises(TypeError):
            Route("GET", "/open", role, handler)


async def test_every_route_served_is_in_the_table(one_store):
    """Nothing else was added to the application."""
    served_routes = make_admin(one_store, SECRET).router.routes()
    added = {(route.method, route.resource.canonical) for route in served_routes}
    assert added == {(route.method, route.path) for route in ROUTES}
    public = {route.path for route in ROUTES if route.role is Role.PUBLIC}
    assert public == {"/auth/login", "/auth/refresh"}


@pytest.mark.parametrize("role", admins.ROLES)
async def test_roles_include_those_before_them(one_store, password_hash, role):
    """No token 401, too small a role 403, else 200; before body and existence are looked at."""
    await admins.create(one_store, email=EMAIL, password_hash=password_hash, role=role)
    routes = [
        *ROUTES,
        *(Route("POST", f"/for-{each.name.lower()}", each, handler) for each in Role),
    ]
    async with served(one_store, routes=routes) as api:
        token = (await api.login()).json["access_token"]
        for each in Role:
            path = f"/admin/for-{each.name.lower()}"
            expected = 200 if each <= Role[role.upper()] else 403
            assert (await api.ask("POST", path, token, data=b"{")).status == expected
            without = await api.ask("POST", path, data=b"{")
            assert without.status == (200 if each is Role.PUBLIC else 401)


async def test_a_defect_is_told_to_the_log_and_not_to_the_client(one_store):
    """500 in our shape, with the headers every answer has."""

    async def fail(_: web.Request) -> web.Response:
        raise ValueError("secret thing")

    async with served(one_store, routes=[Route("GET", "/fail", Role.PUBLIC, fail)]) as api:
        answer = await api.ask("GET", "/admin/fail")
    assert (answer.status, answer.code) == (500, "internal_error")
    assert "secret thing" not in answer.text


async def test_unknown_routes_and_methods(one_api):
    """JSON, never HTML or text."""
    for path in ("/admin/nothing", "/admin/auth", f"{LOGIN}/more", "/admin/", "/admin"):
        answer = await one_api.ask("GET", path)
        assert (answer.status, answer.code) == (404, "not_found"), path
    for method, path in (("GET", LOGIN), ("DELETE", "/admin/me"), ("OPTIONS", "/admin/me")):
        answer = await one_api.ask(method, path)
        assert (answer.status, answer.code) == (405, "method_not_allowed"), path
        assert answer.headers["allow"] == ("POST" if path == LOGIN else "GET")


MISFITS: list[tuple[object, list[list[str]]]] = [
    ({}, [["body", "email"], ["body", "password"]]),
    ({"email": EMAIL}, [["body", "password"]]),
    ({**RIGHT, "role": "admin"}, [["body", "role"]]),
    ({**RIGHT, "email": 7}, [["body", "email"]]),
    ({**RIGHT, "password": None}, [["body", "password"]]),
    ({**RIGHT, "password": ["x"]}, [["body", "password"]]),
    ({**RIGHT, "password": "x" * 1025}, [["body", "password"]]),
    ({**RIGHT, "email": "x" * 321}, [["body", "email"]]),
    ([], [["body"]]),
    ("text", [["body"]]),
    (None, [["body"]]),
]


async def test_a_body_that_does_not_fit_is_422_with_places(one_api):
    """A list of {loc, msg}; values are not repeated, they may be passwords."""
    for body, loc in MISFITS:
        answer = await one_api.ask("POST", LOGIN, data=json.dumps(body), headers=JSON)
        assert answer.status == 422
        assert [each["loc"] for each in answer.json["detail"]] == loc
        assert all(each.keys() == {"loc", "msg"} and each["msg"] for each in answer.json["detail"])
        assert PASSWORD not in answer.text
        assert "x" * 30 not in answer.text


BAD: list[tuple[bytes, dict[str, str], int, str]] = [
    (b"", {}, 400, "invalid_json"),
    (b"{", {}, 400, "invalid_json"),
    (b"\xff\xfe", {}, 400, "invalid_json"),
    (b'{"email": "\\ud800", "password": "x"}', {}, 400, "invalid_json"),
    (b"[" * 100_000, {}, 400, "invalid_json"),
    (json.dumps(RIGHT).encode() + b"x", {}, 400, "invalid_json"),
    (json.dumps(RIGHT).encode(), {"content-type": "text/plain"}, 415, "unsupported_media_type"),
    (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    (json.dumps(RIGHT).encode(), {"content-encoding": "x"}, 415, "unsupported_media_type"),
    (b'{"email": "' + b"x" * (1 << 20) + b'"}', {}, 413, "body_too_large"),
    (b'{"email": "a\\u0000b", "password": "x"}', {}, 400, "invalid_request"),
]


async def test_bad_bodies(one_api):
    """Each has its own status; a simple form of another site is never read."""
    for data, headers, status, code in BAD:
        answer = await one_api.ask("POST", LOGIN, data=io.BytesIO(data), headers=JSON | headers)
        assert (answer.status, answer.code) == (status, code), data[:40]


async def test_the_label_of_a_request(one_api):
    """The client's own if it is sane, else one of ours."""
    answer = await one_api.ask("GET", "/admin/me", headers={"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    answer = await one_api.ask("GET", "/admin/me", headers={"x-request-id": "x" * 200})
    assert answer.headers["x-request-id"].startswith("req_")
