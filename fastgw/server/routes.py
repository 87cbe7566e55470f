"""The route table of the data plane."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fastgw import __version__
from fastgw.domain import Model, Principal
from fastgw.errors import ModelNotFound, NotFound
from fastgw.flow.exchange import FREE
from fastgw.flow.plan import asked_for
from fastgw.providers import registry
from fastgw.server.endpoints import (
    MODEL_ENDPOINTS,
    PREFIXES,
    Endpoint,
    client_api_of,
    hot_targets,
)
from fastgw.server.http import Handler, label_of
from fastgw.server.replies import json_reply
from fastgw.wire import json
from fastgw.wire.shapes import Shapes, shapes

if TYPE_CHECKING:
    from fastgw.server.gateway import Gateway

_PINS = ("/at/{provider}", f"/{{provider:(?!(?:{'|'.join(PREFIXES)})/)[^/]+}}")
"""How a path names a provider; the short form cannot name one that is called like a client API."""


def hot_routes(gateway: Gateway) -> dict[str, Handler]:
    """Give the exact request targets that go straight to the lane."""
    return {
        target: partial(
            gateway.lane.serve,
            endpoint=endpoint.name,
            client_api=endpoint.client_api,
            query=query,
        )
        for target, (endpoint, query) in hot_targets().items()
    }


def fast_routes() -> dict[str, str]:
    """Give the exact request targets that the fast lane may serve, with what they ask for."""
    return {
        target: asked_for(endpoint.name, query)
        for target, (endpoint, query) in hot_targets().items()
        if endpoint.name not in FREE
    }


def add_routes(app: web.Application, gateway: Gateway) -> None:
    """Add every data-plane route. Provider pins come last: fixed first segments win over them."""
    router = app.router
    views = Views(gateway)
    router.add_get("/healthz", views.healthz)
    router.add_get("/readyz", views.readyz)
    router.add_get("/health", views.health)
    router.add_get("/metrics", views.metrics)
    router.add_get("/gateways", views.gateways)
    prefixes = dict.fromkeys(prefix for some in PREFIXES.values() for prefix in some)
    for prefix in (*prefixes, *_PINS):
        for endpoint in MODEL_ENDPOINTS:
            if prefix in PREFIXES[endpoint.client_api] or prefix in _PINS:
                router.add_post(prefix + endpoint.path, partial(views.model_route, endpoint))
        router.add_get(prefix + "/v1/models", views.models)
        router.add_get(prefix + "/v1/models/{id:.+}", views.model)


class Views:
    """Handlers that are not model calls, and the pinned forms of those that are."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def model_route(self, endpoint: Endpoint, request: web.Request) -> Any:
        """Serve a model call, pinned to the provider that the path names."""
        query = request.query_string
        return await self._gateway.lane.serve(
            request,
            endpoint=endpoint.name,
            client_api=endpoint.client_api,
            pinned=self._pinned(request),
            query=query if query in endpoint.queries else "",
        )

    async def models(self, request: web.Request) -> web.Response:
        """List the models the key may use."""
        principal = await self._gateway.lane.identify(request)
        shape = _shape_of(request)
        return _reply(request, shape.model_list(self._visible(request, principal).values()), shape)

    async def model(self, request: web.Request) -> web.Response:
        """Describe one model the key may use."""
        principal = await self._gateway.lane.identify(request)
        name = request.match_info["id"]
        model = self._visible(request, principal).get(name)
        if model is None:
            raise ModelNotFound(f"no model {name!r} that this key may use", param="model")
        shape = _shape_of(request)
        return _reply(request, json.dumps(shape.model_object(model)), shape)

    async def healthz(self, _: web.Request) -> web.Response:
        """Say that the process is alive."""
        return json_reply(b'{"status":"ok"}')

    async def readyz(self, _: web.Request) -> web.Response:
        """Say whether requests should be sent here."""
        reasons = self._gateway.unready()
        body = json.dumps({"status": "unready" if reasons else "ready", "reasons": reasons})
        return json_reply(body, 503 if reasons else 200)

    async def health(self, _: web.Request) -> web.Response:
        """Give details for operators; no names of keys or users, no addresses."""
        return json_reply(json.dumps(self._gateway.health()))

    async def metrics(self, request: web.Request) -> web.Response:
        """Render the metrics of all workers for Prometheus."""
        accept = request.headers.get("accept", "")
        body, content_type = await self._gateway.exposition.render(accept)
        return web.Response(body=body, headers={"content-type": content_type})

    async def gateways(self, _: web.Request) -> web.Response:
        """Tell clients what is served here."""
        providers = [
            {
                "name": provider.name,
                "type": provider.type,
                "status": "enabled",
                "client_apis": sorted(registry[provider.type].translators),
                "endpoints": sorted(registry[provider.type].paths),
            }
            for provider in self._gateway.context.directory.providers.values()
        ]
        apis = {
            api: [
                prefix + endpoint.path
                for prefix in prefixes
                for endpoint in MODEL_ENDPOINTS
                if endpoint.client_api == api
            ]
            for api, prefixes in PREFIXES.items()
        }
        return json_reply(
            json.dumps({"version": __version__, "client_apis": apis, "providers": providers})
        )

    def _visible(self, request: web.Request, principal: Principal) -> dict[str, Model]:
        pinned = self._pinned(request)
        return {
            model.name: model
            for model in self._gateway.context.directory.visible(principal)
            if pinned is None or any(d.provider.name == pinned for d in model.deployments)
        }

    def _pinned(self, request: web.Request) -> str | None:
        pinned = request.match_info.get("provider")
        if pinned is not None and pinned not in self._gateway.context.directory.providers:
            raise NotFound(f"there is no route or provider {pinned!r}")
        return pinned


def _shape_of(request: web.Request) -> Shapes:
    return shapes(client_api_of(request.path, request.headers))


def _reply(request: web.Request, body: bytes, shape: Shapes) -> web.Response:
    return json_reply(body, headers=dict.fromkeys(shape.label_headers, label_of(request)))
