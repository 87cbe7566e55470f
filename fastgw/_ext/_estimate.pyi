"""Types of the compiled token estimator."""

from fastgw._ext.weights import Overheads

def text(data: bytes) -> int:
    """Estimate the tokens of UTF-8 text."""

def prompt(body: bytes) -> int:
    """Estimate the prompt tokens of a JSON request body by the rules of OpenAI's models."""

class Family:
    """How one model family counts: what requests cost it, how far estimates have been off."""

    def __init__(self, overheads: Overheads | None = None) -> None: ...
    def prompt(self, body: bytes) -> int:
        """Estimate the prompt tokens of a JSON request body: messages, tools, schemas.

        Data URLs and other binary members do not count by their bytes. Never raises: of a body that
        is not JSON, or over 100 deep, what was read counts.
        """

    def observe(self, estimated: int, actual: int, /) -> None:
        """Learn from one prompt: what was estimated, what the provider counted."""

    def correct(self, estimated: int, /) -> int:
        """Give how many tokens the prompt has at most, 999 times in 1,000."""

    def expect(self, estimated: int, /) -> int:
        """Give how many tokens the prompt has most likely, by what was seen so far."""
