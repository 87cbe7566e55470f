"""Counts what providers did not report, behind the answer's back, and closes such exchanges."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastgw.flow.account import finish
from fastgw.flow.context import Context
from fastgw.flow.exchange import Counted, Exchange
from fastgw.server.tasks import spawn
from fastgw.server.tokenizer import Tokenizer
from fastgw.server.tokenizing import Question

_MOST_WAITING = 1_000
"""Exchanges; their requests are in memory. Those beyond are estimated at once."""


class Recounts:
    """The exchanges of one worker that wait for their count; none is lost, whatever happens."""

    def __init__(self, tokenizer: Tokenizer, context: Callable[[], Context]) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self._waiting: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, exchange: Exchange) -> bool:
        """Take an exchange over, to be closed once it is counted; False when there are too many."""
        if len(self._waiting) >= _MOST_WAITING:
            self._context().metrics.dropped["token_counts"].add(1)
            return False
        task = spawn(self._recount(exchange), "recount")
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return True

    async def settled(self) -> None:
        """Wait until none waits; each is closed within seconds, counted or not."""
        while self._waiting:
            await asyncio.wait(self._waiting)

    async def _recount(self, exchange: Exchange) -> None:
        counted = Counted()
        try:
            counted = await self._count(exchange)
        finally:
            exchange.counted = counted
            finish(exchange, self._context())

    async def _count(self, exchange: Exchange) -> Counted:
        deployment, translator = exchange.deployment, exchange.translator
        assert deployment is not None
        assert translator is not None
        delivered = translator.delivered()
        prompt = None
        if translator.prompt_usage() is None:
            prompt = await self._ask(Question("prompt", deployment.model, exchange.body))
        answer = await self._ask(
            Question("answer", deployment.model, delivered.text, delivered.calls)
        )
        if answer is not None and delivered.tokens > delivered.kept:
            # Of what was too long to keep the estimate stands, as far off as it was before.
            rest = delivered.tokens - delivered.kept
            answer += rest * answer // max(delivered.kept, 1)
        return Counted(prompt, answer)

    async def _ask(self, question: Question) -> int | None:
        count = await self._tokenizer.count(question)
        if count is None:
            self._context().metrics.dropped["token_counts"].add(1)
        return count
