"""The route table of the data plane."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fastgw import __version__
from fastgw.domain import Model, Principal
from fastgw.errors import ModelNotFound, NotFound
from fastgw.providers import registry
from fastgw.server.http import Handler, label_of
from fastgw.server.replies import json_reply
from fastgw.wire import json, openai

if TYPE_CHECKING:
    from fastgw.server.gateway import Gateway

MODEL_ROUTES = {"/v1/chat/completions": "chat_completions"}
"""OpenAI paths that reach a model -> endpoint."""

_PREFIXES = ("", "/openai")


def hot_routes(gateway: Gateway) -> dict[str, Handler]:
    """Give the exact request targets that go straight to the lane."""
    return {
        prefix + path: partial(gateway.lane.serve, endpoint=endpoint, client_api="openai")
        for prefix in _PREFIXES
        for path, endpoint in MODEL_ROUTES.items()
    }


def fast_routes() -> dict[str, str]:
    """Give the exact request targets that the fast lane may serve, with their endpoints."""
    return {
        prefix + path: endpoint for prefix in _PREFIXES for path, endpoint in MODEL_ROUTES.items()
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
    for prefix in (*_PREFIXES, "/at/{provider}", "/{provider}"):
        for path, endpoint in MODEL_ROUTES.items():
            router.add_post(prefix + path, partial(views.model_route, endpoint))
        router.add_get(prefix + "/v1/models", views.models)
        router.add_get(prefix + "/v1/models/{id:.+}", views.model)


class Views:
    """Handlers that are not model calls, and the pinned forms of those that are."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def model_route(self, endpoint: str, request: web.Request) -> Any:
        """Serve a model call, pinned to the provider that the path names."""
        return await self._gateway.lane.serve(
            request, endpoint=endpoint, client_api="openai", pinned=self._pinned(request)
        )

    async def models(self, request: web.Request) -> web.Response:
        """List the models the key may use."""
        principal = await self._gateway.lane.identify(request)
        return self._reply(request, openai.model_list(self._visible(request, principal).values()))

    async def model(self, request: web.Request) -> web.Response:
        """Describe one model the key may use."""
        principal = await self._gateway.lane.identify(request)
        name = request.match_info["id"]
        model = self._visible(request, principal).get(name)
        if model is None:
            raise ModelNotFound(f"no model {name!r} that this key may use", param="model")
        return self._reply(request, json.dumps(openai.model_object(model)))

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
        body, content_type = self._gateway.render_metrics(request.headers.get("accept", ""))
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
        apis = {"openai": [prefix + path for prefix in _PREFIXES for path in MODEL_ROUTES]}
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

    @staticmethod
    def _reply(request: web.Request, body: bytes) -> web.Response:
        return json_reply(body, headers={"x-request-id": label_of(request)})
