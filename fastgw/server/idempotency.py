"""One answer for all requests that bear the same `Idempotency-Key`, in all workers, for a day.

In this worker duplicates follow one recording. Between workers, machines and restarts the store
decides: who inserts the row answers, the others wait for what is kept. Who answers beats every few
seconds; a row whose beat stands still belongs to a process that is gone, and is taken over.
"""

from __future__ import annotations

import asyncio
import secrets
import time

import structlog

from fastgw.config.schema import Idempotency as Settings
from fastgw.errors import AlreadyUnderWay, AnswerNotKept, StoreUnavailable
from fastgw.flow.idempotency import Claim, is_final
from fastgw.server.recording import Recording, kept_fields
from fastgw.storage import Store
from fastgw.storage.sql import kept_answers
from fastgw.storage.sql.kept_answers import TOO_LARGE, KeptAnswer

log = structlog.get_logger(__name__)

BEAT_S = 1.0
DEAD_S = 5.0
"""A beat that stands still for so long has stopped."""
_POLL_S = 0.1


class Idempotency:
    """The answers under way in this worker, and those that are kept."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self.settings = settings
        self._owner = secrets.token_hex(8)
        self._live: dict[str, tuple[Claim, Recording]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def join(self, claim: Claim) -> tuple[Recording, bool]:
        """Give the recording of a claim, and whether it has just been made: somebody must `open`.

        Raises when the same key is under way for another request.
        """
        found = self._live.get(claim.id)
        if found is not None:
            found[0].check(claim.fingerprint)
            return found[1], False
        recording = Recording(self.settings.max_answer_bytes)
        self._live[claim.id] = claim, recording
        return recording, True

    async def open(self, claim: Claim, recording: Recording) -> bool:
        """Tell whether it is up to us to answer; if not, the recording has been filled.

        Raises when there is an answer that cannot be given.
        """
        settings = self.settings
        began = stirred = time.monotonic()
        seen = await self._claim(claim)
        while seen is not None:
            claim.check(seen.fingerprint)
            if seen.status is not None:
                _replay(seen, recording)
                return False
            now = time.monotonic()
            if now - stirred >= DEAD_S and await kept_answers.take_over(
                self._store, claim.id, seen, self._owner
            ):
                log.warning("idempotent_taken_over", key_id=claim.key_id)
                return True
            if now - began >= settings.wait_s:
                raise AlreadyUnderWay(
                    "a request with this Idempotency-Key is under way", retry_after=1
                )
            await asyncio.sleep(_POLL_S)
            before = seen
            seen = await kept_answers.find(self._store, claim.id) or await self._claim(claim)
            if seen is not None and (seen.owner, seen.beat) != (before.owner, before.beat):
                stirred = time.monotonic()
        return True

    async def settle(self, claim: Claim, recording: Recording) -> None:
        """Keep what is final, so that who hears the end of an answer can have it again."""
        try:
            await self._settle(claim, recording)
        except StoreUnavailable as exc:  # those who wait have their answer all the same
            log.warning("answer_not_kept", key_id=claim.key_id, reason=exc.message)

    def leave(self, claim: Claim, recording: Recording) -> None:
        """Let go of a recording that is complete, or never will be."""
        self._live.pop(claim.id, None)
        recording.tell()

    async def run(self) -> None:
        """Beat for what is under way, until cancelled."""
        while True:
            await asyncio.sleep(BEAT_S)
            if not self._live:
                continue
            try:
                await kept_answers.beat(self._store, self._owner)
            except StoreUnavailable as exc:
                log.info("no_beat", reason=exc.message)
            except Exception:
                log.exception("no_beat")  # the next turn tries again

    async def _claim(self, claim: Claim) -> KeptAnswer | None:
        return await kept_answers.claim(
            self._store,
            claim.id,
            key_id=claim.key_id,
            fingerprint=claim.fingerprint,
            owner=self._owner,
            ttl_ms=int(self.settings.ttl_s * 1000),
        )

    async def _settle(self, claim: Claim, recording: Recording) -> None:
        if not recording.ended or recording.broken or not is_final(recording.status):
            await kept_answers.release(self._store, claim.id, self._owner)
        elif recording.large:
            await kept_answers.keep(self._store, claim.id, self._owner, status=TOO_LARGE)
        else:
            await kept_answers.keep(
                self._store,
                claim.id,
                self._owner,
                status=recording.status,
                streamed=recording.streamed,
                fields=kept_fields(recording.fields),
                body=recording.body(),
            )


def _replay(kept: KeptAnswer, recording: Recording) -> None:
    if kept.status == TOO_LARGE:
        raise AnswerNotKept("the answer under this Idempotency-Key was too large to be kept")
    assert kept.status is not None
    recording.replay(kept.status, kept.fields, kept.body, streamed=kept.streamed)
