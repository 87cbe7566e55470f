"""One worker: everything that serves requests in one process, made, kept up to date and let go."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from fastgw import __version__, _ext, logs
from fastgw._ext import counters
from fastgw.admin import make_admin
from fastgw.config import Settings
from fastgw.domain import Principal
from fastgw.errors import Draining, GatewayError, InvalidAPIKey, StoreUnavailable
from fastgw.events.journal import Place, Segments, wait_for_leftovers
from fastgw.flow.context import Context
from fastgw.flow.directory import Directory
from fastgw.flow.exchange import KeepDecision, LoadKey, LoadSpend, Reserve, Wait
from fastgw.flow.keys import KeyCache
from fastgw.flow.limits import Stands, refusal_by
from fastgw.metrics import Exposition, Metrics
from fastgw.server.changes import Changes
from fastgw.server.checks import server_context
from fastgw.server.door import Door
from fastgw.server.http import GatewayServer, Handler, name_server
from fastgw.server.idempotency import Idempotency
from fastgw.server.jobs import Jobs
from fastgw.server.keeper import Keeper
from fastgw.server.lanes import make_fast_lane
from fastgw.server.listen import BACKLOG
from fastgw.server.protocol import Patience
from fastgw.server.recount import Recounts
from fastgw.server.routes import add_routes, fast_routes, hot_routes
from fastgw.server.secrets import open_secrets
from fastgw.server.snapshot import read_directory, read_rules, terms_of
from fastgw.server.spend import Spend
from fastgw.server.standard import StandardLane
from fastgw.server.tasks import cancel, spawn
from fastgw.server.tokenizer import Tokenizer
from fastgw.storage import open_store
from fastgw.storage.redis import parse
from fastgw.storage.sql import decisions
from fastgw.storage.sql import keys as key_rows
from fastgw.upstream import Pool

if TYPE_CHECKING:
    from fastgw.server.fastlane import FastLane

log = structlog.get_logger(__name__)

_TICK_S = 0.05
_HANDLES = 8
"""Of a listening socket, in one worker."""
_MOST_TURNS = 1000
_REDIS_S = 2.0
"""How long a start waits for Redis; it may come later."""
_MOST_LOADS = 3
_LANES = "fastgw_lane_total"


class Gateway:
    """A worker's whole inside. `start`, then requests are served; `drain`, then it is empty."""

    def __init__(
        self, settings: Settings, board: counters.Board, number: int, place: Place
    ) -> None:
        self.settings = settings
        self._board = board
        self._number = number
        kept = settings.journal
        self._segments = Segments(place, number, full_at=kept.full_at, size=kept.segment_bytes)
        self._place = place
        self._stack = AsyncExitStack()
        self._loads: dict[bytes, asyncio.Task[Principal | None]] = {}
        self.fast: FastLane | None = None
        self._servers: list[GatewayServer] = []
        self._listeners: list[asyncio.Server] = []
        self._draining = False
        self._started_at = time.time()

    # -- making ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, read the snapshot, make the lanes. Nothing listens yet."""
        try:
            await self._open()
            await self._catch_up()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _open(self) -> None:
        settings = self.settings
        self._secrets = open_secrets(settings)
        self.store = await open_store(settings.database.url.reveal(), migrate=False)
        self._stack.push_async_callback(self.store.close)
        self._segments.start()
        self._stack.callback(self._segments.close)
        self.metrics = Metrics(
            self._board.slot(self._number),
            known_model=lambda name: name in self.context.directory.names,
            key_label=settings.metrics.key_label,
            tag_labels=settings.metrics.tag_labels,
        )
        self.exposition = Exposition(self._board)
        keys = KeyCache(time.monotonic, self.metrics.key_cache_events)
        self._changes = Changes(self.store, keys, self.refresh, self.refresh_rules)
        await self._changes.start()  # before anything is read that it will keep true
        self.context = Context(
            keys=keys,
            directory=await self._read_directory(),
            metrics=self.metrics,
            journal=self._segments.journal,
        )
        self._changes.payers = lambda: self.context.directory.payers
        self._make_keeper()
        self.tokenizer = Tokenizer(self._secrets.folder)
        self._stack.push_async_callback(self.tokenizer.close)
        self.recounts = Recounts(self.tokenizer, lambda: self.context)
        self._stack.push_async_callback(self.recounts.settled)
        self.context.count_later = self.recounts.take
        self.context.limiter.replace(await read_rules(settings, self.store))
        self._spend = Spend(
            self.store, self.context.limiter, lambda: self.context.directory, self.keeper
        )
        self._jobs = Jobs(self.store, settings)
        self._idempotency = Idempotency(self.store, settings.idempotency)
        self._pool = Pool(asyncio.get_running_loop())
        self._stack.push_async_callback(self._pool.close)
        self.lane = StandardLane(
            self.context,
            self._pool,
            self.load,
            tokenizer=self.tokenizer,
            max_body_bytes=settings.server.max_body_bytes,
            stream=settings.stream,
            idempotency=self._idempotency,
        )
        await self._make_servers()
        if settings.server.fast_lane:
            self.fast = make_fast_lane(
                self.context, self._pool, self._server, fast_routes(), self.door
            )
        self._apply_settings()

    async def _catch_up(self) -> None:
        """Let what dead processes have left come into the store, and begin to follow it."""
        for each in (self._segments.run(), self._segments.sync()):
            self._stack.push_async_callback(cancel, spawn(each, "journal"))
        await wait_for_leftovers(self._place.folder)
        if self.keeper is not None:
            self._stack.push_async_callback(cancel, spawn(self.keeper.run(), "redis"))
            self._stack.push_async_callback(self.keeper.leave)
            await self.keeper.wait_until_up(_REDIS_S)
        self._stack.push_async_callback(cancel, spawn(self._changes.run(), "changes"))
        self._stack.push_async_callback(cancel, spawn(self._spend.run(), "spend"))
        self._stack.push_async_callback(cancel, spawn(self._idempotency.run(), "idempotency"))
        if self._number == 0:
            self._stack.push_async_callback(cancel, spawn(self._jobs.run(), "jobs"))

    def _make_keeper(self) -> None:
        """Let Redis keep limits and budgets, where there is one."""
        redis = self.settings.redis
        self.keeper: Keeper | None = None
        if redis.url is None:
            return
        place = f"{socket.gethostname()}:{self.folder.resolve()}:{self._number}"
        self.keeper = Keeper(
            parse(redis.url.reveal()),
            instance=self.context.ids.next(),
            place=hashlib.blake2b(place.encode(), digest_size=12).hexdigest(),
            workers=self.settings.server.workers,
            on_failure=redis.on_failure,
            flush=self._segments.flush,
        )
        self.context.limiter.keeper = self.keeper

    async def _make_servers(self) -> None:
        """Make the data plane's server, and the admin API's: the same one, or one of its own."""
        settings = self.settings
        caps = settings.server
        self.door = Door(caps.max_connections, caps.max_connections_per_address)
        admin = make_admin(self.store, self._secrets.jwt_secret)
        app = web.Application(client_max_size=settings.server.max_body_bytes)
        if settings.admin.listen is None:
            app.add_subapp("/admin", admin)
        else:
            apart = web.Application()
            apart.add_subapp("/admin", admin)
            self._admin_server = await self._make_server(apart, {})
        add_routes(app, self)
        self._server = await self._make_server(app, hot_routes(self))

    async def _make_server(self, app: web.Application, hot: dict[str, Handler]) -> GatewayServer:
        app.on_response_prepare.append(name_server)
        runner = web.AppRunner(app, handle_signals=False, access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        settings = self.settings.server
        server = GatewayServer(
            app,
            hot,
            deadlines=self._pool.deadlines,
            patience=Patience(
                header_s=settings.header_timeout_s,
                body_s=settings.body_timeout_s,
                keepalive_s=settings.keepalive_timeout_s,
                write_s=settings.write_timeout_s,
            ),
            door=self.door,
            auto_decompress=False,  # a compressed body is refused, by a header that is still there
        )
        self._servers.append(server)
        return server

    @property
    def folder(self) -> Path:
        """The data folder."""
        return self._secrets.folder

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Begin to take connections; with `admin.listen` the last socket is the admin API's."""
        tls = self.settings.server.tls
        context = server_context(tls) if tls is not None else None
        for number, sock in enumerate(sockets, 1):
            apart = self.settings.admin.listen is not None and number == len(sockets)
            await self._accept(self._admin_server if apart else self._front, sock, context)

    def _front(self) -> asyncio.Protocol:
        """Make the protocol of a new client connection."""
        return self._server() if self.fast is None else self.fast.make_front()

    async def _accept(
        self,
        make: Callable[[], asyncio.Protocol],
        sock: socket.socket,
        context: ssl.SSLContext | None,
    ) -> None:
        # libuv takes one connection from a handle in each turn of the loop, and a turn of a busy
        # worker is long: 500 newcomers beside 300 busy clients waited 4 s, and wait 1 s with 8.
        handshake_s = self.settings.server.header_timeout_s
        for handle in (sock, *(sock.dup() for _ in range(_HANDLES - 1))):
            self._listeners.append(
                await asyncio.get_running_loop().create_server(
                    make,
                    sock=handle,
                    backlog=BACKLOG,
                    ssl=context,
                    ssl_handshake_timeout=handshake_s if context is not None else None,
                )
            )

    # -- keeping up to date ---------------------------------------------------------------------

    async def refresh(self) -> None:
        """Read the directory again and swap it in; a failure leaves the old one serving.

        Raises StoreUnavailable, after which trying again can help.
        """
        try:
            self.context.swap(await self._read_directory())
        except StoreUnavailable:
            raise
        except GatewayError as exc:
            log.error("directory_not_refreshed", reason=exc.message)  # noqa: TRY400 - says it all
        except Exception:
            log.exception("directory_not_refreshed")  # rows can be written by anybody

    async def refresh_rules(self) -> None:
        """Read limits and budgets again and go by them; a failure leaves the old ones in force.

        Raises StoreUnavailable, after which trying again can help.
        """
        try:
            self.context.limiter.replace(await read_rules(self.settings, self.store))
        except StoreUnavailable:
            raise
        except Exception:
            log.exception("rules_not_refreshed")  # rows can be written by anybody

    def reconfigure(self, settings: Settings) -> None:
        """Serve by new settings, as far as they can change without a restart.

        Directory, limits and budgets follow as soon as the store can be read.
        """
        self.settings = settings
        logs.configure(settings.logs)
        self._apply_settings()
        self._changes.demand()

    def _apply_settings(self) -> None:
        settings = self.settings
        self._jobs.settings = settings
        self._idempotency.settings = settings.idempotency
        self.context.record = logs.request_line(enabled=settings.logs.requests)
        self.lane.stream = settings.stream
        if self.fast is not None:
            self.fast.configure(settings.server, settings.stream)
        self.context.set_anonymous(
            settings.auth.anonymous_key, remote=settings.auth.anonymous_remote
        )
        self.context.proxies = settings.security.trusted_proxies
        self.context.client_tags = settings.keys.client_tags
        self.context.limiter.configure(terms_of(settings.budgets))
        self.context.keys.configure(
            settings.keys.cache_size, settings.keys.negative_ttl_s, settings.keys.max_stale_s
        )

    async def load(self, wait: Wait) -> None:
        """Fetch what a stage waits for."""
        if isinstance(wait, LoadSpend):
            await self._spend.load(wait.budgets)
        elif isinstance(wait, Reserve):
            await self._reserve(wait)
        elif isinstance(wait, KeepDecision):
            await decisions.put(
                self.store,
                exchange_id=wait.exchange_id,
                key_id=wait.key_id,
                decision=wait.decision.decode(),
            )
        else:
            await self.load_key(wait)

    async def _reserve(self, wait: Reserve) -> None:
        """Ask whoever keeps the meters; raises what stands in the way."""
        exchange, keeper = wait.exchange, self.keeper
        assert keeper is not None
        assert exchange.guard is not None
        for _ in range(_MOST_LOADS):
            outcome = await keeper.wait(exchange.guard, exchange.id, wait.tokens, wait.nano)
            if isinstance(outcome, LoadSpend):  # Redis has lost what it knew
                for budget in outcome.budgets:
                    budget.loaded = False
                await self._spend.load(outcome.budgets)
            elif isinstance(outcome, Stands):
                raise refusal_by(outcome.meter, outcome.wait, wait.tokens, wait.nano, self.metrics)
            elif isinstance(outcome, GatewayError):
                raise outcome
            else:
                exchange.reservation = outcome
                return
        raise StoreUnavailable("limits and budgets cannot be checked right now", retry_after=1)

    async def load_key(self, wait: LoadKey) -> None:
        """Read a principal into the cache; concurrent requests for one key read it once."""
        digest = wait.digest
        load = self._loads.get(digest)
        if load is None:
            self.context.keys.check_load()
            load = asyncio.get_running_loop().create_task(self._load_key(digest), name="load-key")
            self._loads[digest] = load
            load.add_done_callback(partial(self._loaded, digest))
        if await asyncio.shield(load) is None:  # one client that leaves must not fail the others
            raise InvalidAPIKey("this key is unknown or disabled")

    def _loaded(self, digest: bytes, load: asyncio.Task[Principal | None]) -> None:
        del self._loads[digest]
        if not load.cancelled():
            load.exception()  # who waited has it; if all have left it concerns nobody

    async def _load_key(self, digest: bytes) -> Principal | None:
        keys = self.context.keys
        while True:
            epoch = keys.epoch
            principal = await key_rows.find_by_hash(self.store, digest)
            if epoch == keys.epoch:  # else it may have changed since it was read
                keys.put(digest, principal)
                return principal

    async def _read_directory(self) -> Directory:
        return await read_directory(self.settings, self.store, self._secrets.vault)

    # -- telling --------------------------------------------------------------------------------

    def unready(self) -> list[str]:
        """Give the reasons why requests should go elsewhere; none: ready."""
        reasons = []
        if self._draining:
            reasons.append("draining")
        if not self._changes.store_ok:
            reasons.append("database unavailable")
        keeper = self.keeper
        if keeper is not None and keeper.on_failure == "deny" and not keeper.available:
            reasons.append("redis unavailable")
        if self._segments.fault is not None:
            reasons.append("journal cannot grow")
        return reasons

    def health(self) -> dict[str, object]:
        """Give what an operator wants to see at a glance."""
        directory = self.context.directory
        reasons = self.unready()
        return {
            "status": "unready" if reasons else "ok",
            "reasons": reasons,
            "version": __version__,
            "build": _ext.BUILD,
            "uptime_s": int(time.time() - self._started_at),
            "worker": self._number,
            "store": {"engine": self.store.engine, "available": self._changes.store_ok},
            "limits": "in process" if self.keeper is None else self.keeper.describe(),
            "journal": {"mode": self.settings.journal.mode, **self._segments.describe()},
            "keys": {"cached": len(self.context.keys)},
            "in_flight": sum(lane.in_flight for lane in self._lanes()),
            "providers": len(directory.providers),
            "models": len(directory.models) + len(directory.listed),
            "ambiguous_models": directory.ambiguous,
        }  # fmt: skip

    def describe(self) -> dict[str, dict[str, object]]:
        """Give the inner state of this worker, by subsystem: what waits, what is kept."""
        plans = self.context.plans
        return {
            "lanes": {"standard_in_flight": self.lane.in_flight,
                      "fast_in_flight": self.fast.in_flight if self.fast is not None else None,
                      "draining": self._draining, "served": self._lane_counts()},
            "plans": {"keys": len(plans), "plans": plans.count()} if plans is not None else {},
            "pools": self._pool.describe(),
            "journal": {"mode": self.settings.journal.mode, **self._segments.describe()},
            "keys": {"cached": len(self.context.keys), "loading": len(self._loads),
                     "epoch": self.context.keys.epoch},
            "clients": {"connections": sum(len(each.connections) for each in self._servers)},
            "directory": {"providers": len(self.context.directory.providers),
                          "models": len(self.context.directory.models)},
        }  # fmt: skip

    def _lanes(self) -> Sequence[StandardLane | FastLane]:
        return [lane for lane in (self.lane, self.fast) if lane is not None]

    def _lane_counts(self) -> dict[str, int]:
        """Give how many requests each lane served in this worker's place, and why there."""
        read = self._board.read_slot(self._number)
        return {
            series.removeprefix(_LANES): int(count)
            for series, count in read.items()
            if series.startswith(_LANES) and isinstance(count, int)
        }

    def report(self) -> None:
        """Write the inner state to the log, a line for each subsystem."""
        for subsystem, state in self.describe().items():
            # A warning only so that it is written at whatever level: somebody asked for it.
            log.warning("report", worker=self._number, subsystem=subsystem, **state)

    # -- letting go -----------------------------------------------------------------------------

    async def drain(self) -> None:
        """Refuse what is new, let live exchanges finish within the grace time, write everything."""
        settings = self.settings.server
        self._draining = True
        await asyncio.sleep(settings.drain_delay_s)
        await self._take_queued()
        for listener in self._listeners:
            listener.close()
        lanes = self._lanes()
        for each in (*lanes, *self._servers):
            each.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.shutdown_grace_s):
                while self._is_busy():  # noqa: ASYNC110 - no event tells of the last byte
                    await asyncio.sleep(_TICK_S)
        if in_flight := sum(lane.in_flight for lane in lanes):
            log.warning("grace_over", in_flight=in_flight)
            for lane in lanes:
                lane.end_all(Draining("the server is shutting down"))
            await asyncio.sleep(_TICK_S)
        if self.fast is not None:
            self.fast.close_idle()
        for server in self._servers:
            server.pre_shutdown()
            await server.shutdown(1.0)
        await self._stack.aclose()

    def _is_busy(self) -> bool:
        """Tell whether an exchange is under way, or an answer not yet taken."""
        holders = [self.lane, self.fast, *self._servers]
        return any(each.is_busy() for each in holders if each is not None)

    async def _take_queued(self) -> None:
        """Accept who is connected already: a close would reset them."""
        queues = select.poll()
        for listener in self._listeners:
            for sock in listener.sockets:
                queues.register(sock.fileno(), select.POLLIN)
        for _ in range(_MOST_TURNS):
            if not queues.poll(0):
                return
            await asyncio.sleep(0)
