"""`python -m fastgw`: the command line."""

from __future__ import annotations

import sys

from fastgw.cli import main

sys.exit(main())
