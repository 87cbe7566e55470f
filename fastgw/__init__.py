"""fastgw: an LLM gateway that costs nothing to keep in front of every model call."""

__version__ = "0.1.0"
