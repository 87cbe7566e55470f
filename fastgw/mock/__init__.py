"""A provider that is not one: answers by seed, fails and lies on request, logs the truth.

`serve` is the command, `start` runs it inside a loop, `create_app` gives the bare application.
It knows nothing of the gateway. Model names choose faults and lies: see `fastgw.mock.behaviour`.
"""

from __future__ import annotations

from fastgw.mock.app import create_app
from fastgw.mock.log import Log, credential_mark
from fastgw.mock.options import Options
from fastgw.mock.run import Running, serve, start

__all__ = ["Log", "Options", "Running", "create_app", "credential_mark", "serve", "start"]
