"""How far the token estimator is off, against what providers reported for recorded chats.

    python -m bench.estimator_accuracy [PROVIDER ...]

Prompts: the request body as estimated at admission, against `prompt_tokens`. Answers: delivered
text, against `completion_tokens`; answers whose usage counts hidden reasoning are left out, and so
are prompts with images, audio, files, server tools or a body cut by the recorder (counted apart).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import orjson

from fastgw._ext import BUILD, estimate, sse
from tests.corpora import ROOT, recordings

BESIDE_TEXT = {"vision", "audio", "document", "video", "server_tools", "request_truncated"}


def answer_of(exchange: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Give the reported usage, {} when there is none, and the estimate of the answer's text."""
    body = exchange["response"]["body"].encode()
    if exchange["response"]["framing"] != "sse":
        return orjson.loads(body).get("usage") or {}, sse.text_tokens(body)
    tap = sse.Tap()
    tap.feed(body)
    tap.finish()
    report = orjson.loads(tap.usage) if tap.usage else {}
    return report.get("usage") or report.get("x_groq", {}).get("usage") or {}, tap.text_tokens


def chats(provider: str) -> Iterator[tuple[dict[str, Any], dict[str, Any], int]]:
    """Give exchange, usage and answer estimate of each chat that reports usage."""
    for exchange in recordings(provider, "chat_completions"):
        framing = exchange["response"]["framing"]
        if exchange["response"]["status"] != 200 or framing not in ("json", "sse"):
            continue
        usage, answer = answer_of(exchange)
        if usage:
            yield exchange, usage, answer


def errors_of(provider: str) -> tuple[list[float], list[float], int]:
    """Give the relative errors of prompts and of answers, and how many prompts are beside text."""
    prompts: list[float] = []
    answers: list[float] = []
    beside = 0
    for exchange, usage, answer in chats(provider):
        reported = usage.get("prompt_tokens") or 0
        body = exchange["request"]["body"]
        if BESIDE_TEXT & set(exchange["features"]):
            beside += 1
        elif reported and isinstance(body, dict):
            prompts.append(estimate.prompt(orjson.dumps(body)) / reported - 1)
        reported = usage.get("completion_tokens") or 0
        hidden = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
        if reported and not hidden:
            answers.append(answer / reported - 1)
    return prompts, answers, beside


def spread(errors: list[float]) -> str:
    """Show how many, the median and the 95th percentile of |error|, and the mean error."""
    if not errors:
        return f"{0:5d} {'-':>7} {'-':>7} {'-':>7}"
    sizes = sorted(map(abs, errors))
    middle, high = sizes[len(sizes) // 2], sizes[int(len(sizes) * 0.95)]
    return f"{len(sizes):5d} {middle:7.1%} {high:7.1%} {sum(errors) / len(errors):+7.1%}"


def main(providers: list[str]) -> None:
    """Print a line for each provider and one for all."""
    head = f"{'n':>5} {'median':>7} {'p95':>7} {'bias':>7}"
    print(f"build: {BUILD}")
    print(f"{'':22} {'prompt':^29} {'':6} {'answer':^29}")
    print(f"{'provider':22} {head} beside {head}")
    every: tuple[list[float], list[float]] = ([], [])
    for provider in providers:
        prompts, answers, beside = errors_of(provider)
        if prompts or answers:
            print(f"{provider:22} {spread(prompts)} {beside:6d} {spread(answers)}")
        every[0].extend(prompts)
        every[1].extend(answers)
    print(f"{'all':22} {spread(every[0])} {'':6} {spread(every[1])}")


if __name__ == "__main__":
    main(sys.argv[1:] or sorted(path.stem for path in (ROOT / "recordings").glob("*.jsonl")))
