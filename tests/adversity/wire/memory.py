"""What processes hold: resident memory and open descriptors, as the kernel counts them."""

from __future__ import annotations

import re
from pathlib import Path


def resident(pids: list[int]) -> int:
    """Give the resident memory of processes together, in KiB."""
    total = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        total += int(found[1])
    return total


def descriptors(pids: list[int]) -> int:
    """Give how many descriptors processes have open together."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
