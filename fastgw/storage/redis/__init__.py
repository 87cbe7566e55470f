"""Redis, as limits and budgets use it: addresses, a pipelined connection, the scripts."""

from fastgw.storage.redis.address import Address, parse
from fastgw.storage.redis.link import Link, LinkLost, Refused, find_link
from fastgw.storage.redis.scripts import HELLO, TICK, Script

__all__ = [
    "HELLO", "TICK", "Address", "Link", "LinkLost", "Refused", "Script", "find_link", "parse",
]  # fmt: skip
