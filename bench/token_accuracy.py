"""How far token counts are off, against what providers reported for the recorded exchanges.

    python -m bench.token_accuracy            print the tables of docs/tokens.md
    python -m bench.token_accuracy --write    put them there

Prompts, by the estimator as it counts a family's first request (cold), as it corrects itself by the
reports that it has seen of the same model (corrected), and by the tokenizer. Answers by the
estimator and by the tokenizer. Left out: prompts that are not all in the request (an earlier
response, a cached content, tools that the provider runs) and answers whose report counts reasoning
that nobody was shown.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from fastgw._ext import estimate, sse
from fastgw.catalog import families, prompts, tokens
from fastgw.server.tokenizing import Question, count
from tests.corpora import ROOT, recordings

PAGE = Path(__file__).parents[1] / "docs/tokens.md"
ENDPOINTS = frozenset(
    {
        *("chat_completions", "completions", "messages", "responses"),
        *("generate_content", "stream_generate_content"),
    }
)
ELSEWHERE = frozenset({"previous_response_id", "conversation", "cachedContent"})
FEWEST = 8
"""Exchanges of a family that make a row; families with fewer stand in the row `others`."""
_MODEL = re.compile(r"/models/([^:/?]+)")


class Seen(NamedTuple):
    """One count beside the truth."""

    reported: int
    counts: tuple[int, ...]


class Seens:
    """All of them, by family."""

    def __init__(self) -> None:
        self.prompts: defaultdict[str, list[Seen]] = defaultdict(list)
        self.media: defaultdict[str, list[Seen]] = defaultdict(list)
        self.answers: defaultdict[str, list[Seen]] = defaultdict(list)


def look() -> Seens:
    """Count every recorded exchange that reports usage."""
    seens = Seens()
    known: dict[str, estimate.Family] = {}
    for exchange in exchanges():
        body = exchange["request"]["body"]
        model = model_of(exchange)
        facts = families.find(model)
        usage = usage_of(exchange)
        if usage.get("input") and exchange["endpoint"] != "completions":
            text = orjson.dumps(body)
            family = known.setdefault(model, estimate.Family(facts.overheads))
            cold = family.prompt(text)
            counts = (cold, family.expect(cold), tokens.prompt(text, model))
            family.observe(cold, usage["input"])
            kind = seens.media if prompts.read(body).media else seens.prompts
            kind[facts.name].append(Seen(usage["input"], counts))
        if usage.get("output") and not usage.get("hidden") and is_shown(exchange):
            estimated, counted = answer_counts(exchange, model)
            if estimated:  # else it was nothing that is text
                seens.answers[facts.name].append(Seen(usage["output"], (estimated, counted)))
    return seens


def exchanges() -> Iterator[dict[str, Any]]:
    """Give the exchanges that can be compared."""
    for path in sorted((ROOT / "recordings").glob("*.jsonl")):
        for exchange in recordings(path.stem):
            response = exchange["response"]
            if (
                exchange["endpoint"] in ENDPOINTS
                and response["status"] == 200
                and response["framing"] in {"json", "sse"}
                and isinstance(exchange["request"]["body"], dict)
                and not ELSEWHERE & exchange["request"]["body"].keys()
                and "server_tools" not in exchange["features"]
            ):
                yield exchange


def model_of(exchange: Mapping[str, Any]) -> str:
    """Give the model that was asked."""
    named = exchange["request"]["body"].get("model")
    if named:
        return str(named)
    found = _MODEL.search(exchange["request"]["url_path"])
    return found[1] if found else exchange["request"]["url_path"]


def is_shown(exchange: Mapping[str, Any]) -> bool:
    """Tell whether all of the answer is text that the gateway sees.

    Other APIs than chat sum reasoning up, and plain answers of theirs hold calls as objects.
    """
    features = set(exchange["features"])
    if exchange["endpoint"] in {"chat_completions", "completions"}:
        return "audio" not in features
    unseen = {"thinking", "thinking_requested", "redacted_thinking", "thought_signature"}
    return not features & (unseen if exchange["stream"] else unseen | {"tool_call"})


def payloads(exchange: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the JSON objects of an answer."""
    body = exchange["response"]["body"]
    lines = [body]
    if exchange["response"]["framing"] == "sse":
        lines = [line[5:] for line in body.splitlines() if line.startswith("data:")]
    for line in lines:
        if line.strip().startswith("{"):
            yield orjson.loads(line)


def usage_of(exchange: Mapping[str, Any]) -> dict[str, int]:
    """Give what was reported, whatever the API calls it."""
    told: dict[str, Any] = {}
    for payload in payloads(exchange):
        for holder in (payload, *(payload.get(each) for each in ("response", "message", "x_groq"))):
            if isinstance(holder, dict):
                told |= {k: v for k, v in (holder.get("usage") or {}).items() if v is not None}
                told |= holder.get("usageMetadata") or {}
    into = sum(told.get(f"cache_{each}_input_tokens") or 0 for each in ("read", "creation"))
    details = told.get("completion_tokens_details") or told.get("output_tokens_details") or {}
    names = ("prompt_tokens", "promptTokenCount", "input_tokens")
    return {
        "input": next((told[name] for name in names if told.get(name)), 0) + into,
        "output": told.get("completion_tokens")
        or told.get("candidatesTokenCount")
        or told.get("output_tokens")
        or 0,
        "hidden": details.get("reasoning_tokens") or 0,
    }


def answer_counts(exchange: Mapping[str, Any], model: str) -> tuple[int, int]:
    """Count an answer's text as the gateway does: what a tap has seen go by."""
    body = exchange["response"]["body"].encode()
    tap = sse.Tap()
    if exchange["response"]["framing"] == "sse":
        tap.feed(body)
        tap.finish()
    else:
        tap = sse.read_text(body)
    counted = count(Question("answer", model, tap.kept_text, tap.calls))
    return tap.text_tokens, counted if counted >= 0 else tap.text_tokens


# -- tables -------------------------------------------------------------------------------------


def errors(seens: list[Seen], column: int) -> tuple[float, float]:
    """Give the median and the 95th percentile of the error, as parts of what was reported."""
    sizes = sorted(abs(seen.counts[column] / seen.reported - 1) for seen in seens)
    return sizes[len(sizes) // 2], sizes[min(len(sizes) - 1, int(len(sizes) * 0.95))]


def table(columns: tuple[str, ...], by_family: Mapping[str, list[Seen]]) -> str:
    """Give a table in Markdown, a row a family and one for all."""
    rows = {name: seen for name, seen in sorted(by_family.items()) if len(seen) >= FEWEST}
    few = [seen for name, some in by_family.items() if name not in rows for seen in some]
    if few:
        rows["others"] = few
    rows["all"] = [seen for some in by_family.values() for seen in some]
    lines = [f"| family | n | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for name, seens in rows.items():
        cells = ["{:.1%} / {:.0%}".format(*errors(seens, column)) for column in range(len(columns))]
        lines.append(f"| {name} | {len(seens)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def render(seens: Seens) -> dict[str, str]:
    """Give all tables by the name they have on the page."""
    columns = ("estimator, cold", "estimator, corrected", "tokenizer")
    return {
        "prompts": table(columns, seens.prompts),
        "media": table(columns, seens.media),
        "answers": table(("estimator", "tokenizer"), seens.answers),
    }


def put(page: str, tables: Mapping[str, str]) -> str:
    """Put the tables between their marks."""
    for name, text in tables.items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        page = f"{before}{mark}{text}\n{end}{after}"
    return page


def main() -> None:
    """Print the tables, or write them."""
    tables = render(look())
    if "--write" in sys.argv[1:]:
        PAGE.write_text(put(PAGE.read_text(), tables))
        return
    for name, text in tables.items():
        print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    main()
