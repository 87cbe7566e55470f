"""The admin API: an aiohttp sub-application with a route table of its own, below `/admin`."""

from __future__ import annotations

from fastgw.admin.app import make_admin

__all__ = ["make_admin"]
