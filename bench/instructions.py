"""The processor's count of instructions, this thread's in user space: perf_event_open(2).

Virtual machines and containers often have no such counter; then every reading is None.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_CALL = {"x86_64": 298, "aarch64": 241}
_HARDWARE, _INSTRUCTIONS = 0, 1
_EXCLUDE_KERNEL_AND_HYPERVISOR = 1 << 5 | 1 << 6
_ATTRIBUTE_BYTES = 64
"""PERF_ATTR_SIZE_VER0: the first version of the struct, which every kernel takes."""


class Instructions:
    """Counts from the moment it is made, for the calling thread alone."""

    def __init__(self, kind: int = _HARDWARE, event: int = _INSTRUCTIONS) -> None:
        self._descriptor = _open(kind, event)

    def read(self) -> int | None:
        """Give the count so far, None where there is no counter."""
        if self._descriptor < 0:
            return None
        (count,) = struct.unpack("=Q", os.read(self._descriptor, 8))
        return int(count)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _open(kind: int, event: int) -> int:
    number = _CALL.get(platform.machine())
    if number is None:
        return -1
    fields = (kind, _ATTRIBUTE_BYTES, event, 0, 0, 0, _EXCLUDE_KERNEL_AND_HYPERVISOR)
    attribute = struct.pack("=IIQQQQQ", *fields).ljust(_ATTRIBUTE_BYTES, b"\0")
    this_thread, any_processor, no_group = 0, -1, -1
    found: int = ctypes.CDLL(None, use_errno=True).syscall(
        number, attribute, this_thread, any_processor, no_group, 0
    )
    return found
