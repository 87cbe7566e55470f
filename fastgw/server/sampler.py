"""Where this process spends its CPU time: Python stacks, taken at a steady beat of that time.

A beat is a SIGPROF of the process's own CPU clock, so an idle process is never disturbed and a
waiting thread weighs nothing. Each beat gives every thread's stack the CPU time that the thread has
used since the last one. Compiled functions have no frame of their own: their time is their
caller's, and that of callbacks which the loop calls directly is the loop's.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import Counter
from types import CodeType, FrameType

BEAT_S = 0.005
_DEEPEST = 200
_WAKE_UP = "uvloop/_noop.py"
"""What uvloop calls to let a signal be handled; never what was running."""

_Stack = tuple[int, tuple[CodeType, ...]]


class Sampler:
    """Samples from `start` to `stop`. Belongs to the main thread; one at a time in a process."""

    def __init__(self, beat_s: float = BEAT_S) -> None:
        self._beat_s = beat_s
        self._used: dict[int, int] = {}
        self._stacks: Counter[_Stack] = Counter()

    def start(self) -> None:
        """Begin."""
        self._used = {thread: _cpu_ns(thread) for thread in sys._current_frames()}  # noqa: SLF001
        signal.signal(signal.SIGPROF, self._beat)
        signal.siginterrupt(signal.SIGPROF, False)
        signal.setitimer(signal.ITIMER_PROF, self._beat_s, self._beat_s)

    def stop(self) -> dict[str, int]:
        """End, and give microseconds of CPU time by stack, outermost function first."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        # Not back to the default: a beat that is still under way would end the process.
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        modules = {
            file: name
            for name, module in tuple(sys.modules.items())
            if (file := getattr(module, "__file__", None)) is not None
        }
        threads = {thread.ident: thread.name for thread in threading.enumerate()}
        micros: Counter[str] = Counter()
        for (thread, codes), spent in self._stacks.items():
            names = [_word(threads.get(thread, "thread"))]
            names += [
                f"{modules.get(code.co_filename, code.co_filename)}:{code.co_qualname}"
                for code in reversed(codes)
            ]
            micros[";".join(_word(name) for name in names)] += spent
        return {stack: spent // 1000 for stack, spent in micros.items() if spent >= 1000}

    def _beat(self, _: int, interrupted: FrameType | None) -> None:
        here = threading.get_ident()
        for thread, top in sys._current_frames().items():  # noqa: SLF001 - made for profilers
            now = _cpu_ns(thread)
            spent = now - self._used.get(thread, now)
            self._used[thread] = now
            if spent > 0:
                frame = interrupted if thread == here else top
                self._stacks[thread, _codes(frame)] += spent


def _codes(frame: FrameType | None) -> tuple[CodeType, ...]:
    """Give what runs, innermost first."""
    codes: list[CodeType] = []
    while frame is not None and len(codes) < _DEEPEST:
        if codes or not frame.f_code.co_filename.endswith(_WAKE_UP):
            codes.append(frame.f_code)
        frame = frame.f_back
    return tuple(codes)


def _cpu_ns(thread: int) -> int:
    # Of a thread that has a frame, asked under the interpreter's lock: it cannot end meanwhile.
    return time.clock_gettime_ns(time.pthread_getcpuclockid(thread))


def _word(name: str) -> str:
    """Give a name that can stand in the collapsed format."""
    return name.replace(";", ",").replace(" ", "_").replace("\n", "_")
