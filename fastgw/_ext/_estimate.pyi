"""Types of the compiled token estimator."""

def text(data: bytes) -> int:
    """Estimate the tokens of UTF-8 text."""

def prompt(body: bytes) -> int:
    """Estimate the prompt tokens of a JSON request body: messages, tools, schemas."""
