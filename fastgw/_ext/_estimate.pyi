"""Types of the compiled token estimator."""

def text(data: bytes) -> int:
    """Estimate the tokens of UTF-8 text."""

def prompt(body: bytes) -> int:
    """Estimate the prompt tokens of a JSON request body: messages, tools, schemas."""

def pictures(body: bytes) -> int:
    """Give the most tokens that the pictures in a JSON request body may count."""

class Family:
    """How far the estimates of one model family are off, learnt from what providers report."""

    def observe(self, estimated: int, actual: int, /) -> None:
        """Learn from one prompt: what was estimated, what the provider counted."""

    def correct(self, estimated: int, /) -> int:
        """Give how many tokens the prompt has at most, 999 times in 1,000."""
