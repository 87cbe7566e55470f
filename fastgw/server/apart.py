"""Do something in a child process that takes along, when it ends, the memory that this needed.

Touches processes and nothing else.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import structlog

from fastgw.errors import CannotStart, GatewayError
from fastgw.wire import json

log = structlog.get_logger(__name__)


def run_apart(work: Callable[[], str | None]) -> str | None:
    """Give what `work` gives, done in a child. CannotStart has the message of an error of ours.

    Call it before there are threads: a child has but one.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or the child would write it once more
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _work(work, writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            told = pipe.read()
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    if not told:
        how = os.waitstatus_to_exitcode(status)
        raise CannotStart(f"the process that prepares ended with status {how}")
    answer = json.loads(told)
    if "failed" in answer:
        raise CannotStart(answer["failed"])
    result: str | None = answer["result"]
    return result


def _work(work: Callable[[], str | None], writer: int) -> None:
    """Be the child; never returns."""
    status = 1
    try:
        try:
            answer = {"result": work()}
        except GatewayError as exc:
            answer = {"failed": exc.message}
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(json.dumps(answer))
        status = 0
    except Exception:
        log.exception("preparing_failed")
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
