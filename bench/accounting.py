"""What a process tree cost, from the kernel's own books under /proc; reads nothing else.

All processes that a gateway starts count with it: workers, their supervisor, helpers. A database
server does not: it is nobody's child here, and serves from the other core.

CPU time is the nanoseconds of `/proc/PID/task/*/schedstat`, summed over threads and descendants:
`utime + stime` in `/proc/PID/stat` come in ticks of 10 ms, 0.3 % of a row of 3 s. The ticks also
hold what threads that have ended ran, which schedstat forgets; so each process counts with the
larger of the two. Wall time plays no part in a price, only in how busy the core was.

Kernels with IRQ_TIME_ACCOUNTING (Debian's, for one) keep the time of soft interrupts out of both
books, and on loopback that is where TCP's receive half runs. There the ticks that the gateway's
core spent in interrupts during the row are added, since that core serves nothing else.

The time that a hypervisor took away (steal) is in no process's books; a core's busy share is
therefore taken of the time that it was there to run.
"""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROC = Path("/proc")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    """The books of one process tree and of the core it is pinned to, at one moment."""

    cpu_ns: int
    interrupt_ns: int
    steal_ns: int
    idle_ns: int
    rss_bytes: int


def read(pid: int, core: int) -> Reading:
    """Give the books of `pid` with its descendants, and of `core`."""
    pids = descendants(pid)
    interrupts, steal, idle = _core_time(core)
    return Reading(
        cpu_ns=sum(cpu_time_ns(one) for one in pids),
        interrupt_ns=interrupts if interrupts_are_apart() else 0,
        steal_ns=steal,
        idle_ns=idle,
        rss_bytes=sum(_rss_bytes(one) for one in pids),
    )


def rss_bytes(pid: int) -> int:
    """Give the resident bytes of a tree; pages that its processes share count for each of them."""
    return sum(_rss_bytes(one) for one in descendants(pid))


def pss_bytes(pid: int) -> int:
    """Give the resident bytes of a tree; of a shared page each process has its part."""
    total = 0
    for one in descendants(pid):
        try:
            text = (PROC / str(one) / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        found = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
        total += int(found[1]) * 1024 if found else 0
    return total


def descendants(pid: int) -> list[int]:
    """Give `pid` and every process below it."""
    parents: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(parents.get(one, ()))
    return found


def cpu_time_ns(pid: int) -> int:
    """Give the nanoseconds that one process has run; 0 when it has gone."""
    precise = 0
    try:
        for task in (PROC / str(pid) / "task").iterdir():
            precise += int((task / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        precise = 0  # a thread or the process has ended meanwhile; the ticks still count it
    fields = _stat_fields(pid)
    ticks = int(fields[11]) + int(fields[12]) if fields else 0
    return max(precise, ticks * TICK_NS)


@cache
def interrupts_are_apart(release: str | None = None) -> bool | None:
    """Say whether this kernel keeps interrupt time out of a process's books; None: not known."""
    release = release or os.uname().release
    for path, opener in ((PROC / "config.gz", gzip.open), (Path(f"/boot/config-{release}"), open)):
        if path.exists():
            with opener(path, "rt") as text:
                return "CONFIG_IRQ_TIME_ACCOUNTING=y\n" in text
    return None


def machine() -> dict[str, object]:
    """Describe where the figures come from; no host name."""
    model = re.search(r"^model name\s*:\s*(.+)$", (PROC / "cpuinfo").read_text(), re.MULTILINE)
    kernel = re.match(r"[\d.]*\d", os.uname().release)
    congestion = (PROC / "sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return {
        "cpu": model[1] if model else os.uname().machine,
        "cores": os.cpu_count(),
        "kernel": f"{os.uname().sysname} {kernel[0] if kernel else ''}".strip(),
        "tcp_congestion_control": congestion,
        "interrupts_counted_apart": interrupts_are_apart(),
    }


def _stat_fields(pid: int) -> list[str] | None:
    """Give `/proc/PID/stat` from the state on: the name before it may hold spaces and brackets."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _rss_bytes(pid: int) -> int:
    fields = _stat_fields(pid)
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def _core_time(core: int) -> tuple[int, int, int]:
    """Give a core's interrupt, stolen and idle time in nanoseconds; the columns are in proc(5)."""
    for line in (PROC / "stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            spent = [int(tick) * TICK_NS for tick in ticks]
            return spent[5] + spent[6], spent[7], spent[3] + spent[4]
    raise LookupError(f"this machine has no core {core}")
