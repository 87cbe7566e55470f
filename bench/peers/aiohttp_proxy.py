"""A plain reverse proxy as one writes it with aiohttp: an application, a ClientSession, uvloop.

The yardstick for what the same language costs without the gateway's own connections. It governs
nothing and keeps nothing. `python -m bench.peers.aiohttp_proxy PORT UPSTREAM_PORT`, and for TLS on
both sides behind that the files of its chain, its key and the authority it trusts.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

UPSTREAM = web.AppKey("upstream", str)
SESSION = web.AppKey("session", aiohttp.ClientSession)
TRUST = web.AppKey("trust", ssl.SSLContext | None)
FORWARDED = ("Authorization", "Content-Type", "Accept", "User-Agent")


async def forward(request: web.Request) -> web.StreamResponse:
    """Send the request on and the answer back, a stream as it comes."""
    headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
    body = await request.read()
    session, upstream = request.app[SESSION], request.app[UPSTREAM]
    async with session.post(upstream + request.path_qs, data=body, headers=headers) as answer:
        back = {"Content-Type": answer.headers["Content-Type"]}
        if answer.content_type != "text/event-stream":
            return web.Response(status=answer.status, body=await answer.read(), headers=back)
        response = web.StreamResponse(status=answer.status, headers=back)
        await response.prepare(request)
        async for data in answer.content.iter_any():
            await response.write(data)
        await response.write_eof()
        return response


async def hold_session(app: web.Application) -> AsyncIterator[None]:
    """Keep one client session, without a connection limit, for the application's life."""
    connector = aiohttp.TCPConnector(limit=0, ssl=app[TRUST] or True)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        app[SESSION] = session
        yield


def main() -> None:
    """Serve on loopback until told to stop."""
    port, upstream_port, *files = sys.argv[1:]
    app = web.Application(client_max_size=64 << 20)
    own = None
    app[TRUST] = None
    if files:
        cert, key, authority = files
        own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own.load_cert_chain(cert, key)
        app[TRUST] = ssl.create_default_context(cafile=authority)
    app[UPSTREAM] = f"{'https' if files else 'http'}://127.0.0.1:{upstream_port}"
    app.cleanup_ctx.append(hold_session)
    app.router.add_post("/{path:.*}", forward)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(port),
        ssl_context=own,
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
