"""The life of a request, stage by stage, without I/O.

accept -> authenticate -> admit -> route -> translate -> relay -> account

A stage is a plain function over one `Exchange` and the `Context`. It returns None to go on, a
`Wait` when something must be fetched first (the lane fetches it and calls the stage again), and
raises a `GatewayError` to refuse. `account` runs for every accepted request, whatever happened.
"""

from __future__ import annotations

from fastgw._ext import BUILD, load_texts

if BUILD == "pure":
    load_texts(__name__, __file__, ("stamp", "plan"))
