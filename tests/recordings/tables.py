"""Tables of what a replay showed, for people to read in the summary of a test run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from fastgw.domain import UsageRecord
from tests.recordings.play import Played
from tests.recordings.recorded import Recorded, expected_usage

_COLUMNS = (
    *("exchanges", "streams", "byte-equal", "reported-equal"),
    *("estimated", "partial", "errors", "as 502", "wrong"),
)


def counts(title: str, played: Iterable[Played], bad: Mapping[str, set[str]]) -> str:
    """Count by provider; `bad` names the exchanges with a wrong answer or a wrong record."""
    rows: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in played:
        recorded, record = one.recorded, one.record
        assert record is not None
        seen = ["exchanges"]
        seen += ["streams"] if recorded.stream else []
        if recorded.status >= 400:
            seen += ["errors", *(["as 502"] if one.status != recorded.status else [])]
        elif recorded.id not in bad["wrong_record"]:
            source = record.usage_source
            seen.append("reported-equal" if source == "reported" else source)
        if recorded.id not in bad["wrong_answer"] and one.status == recorded.status:
            seen.append("byte-equal")
        seen += ["wrong"] if any(recorded.id in ids for ids in bad.values()) else []
        for row in (recorded.provider, "all"):
            rows[row].update(seen)
    total = rows.pop("all")
    lines = [_line(title, _COLUMNS)]
    lines += [_line(name, [row[column] for column in _COLUMNS]) for name, row in rows.items()]
    return "\n".join([*lines, _line("all", [total[column] for column in _COLUMNS])])


def _line(name: str, cells: Iterable[object]) -> str:
    widths = [max(8, len(column) + 2) for column in _COLUMNS]
    padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{name:<28}" + "".join(padded)


class Errors:
    """How far estimates are from the truth, in kinds that have different reasons to be wrong."""

    def __init__(self) -> None:
        self._pairs: defaultdict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)

    def add(self, truth: Recorded, record: UsageRecord | None) -> None:
        """Take one exchange whose usage is known and was not reported."""
        assert record is not None
        reported = truth.usage()
        assert reported is not None
        usage = expected_usage(reported)
        form = "stream" if truth.stream else "plain"
        whose = "OpenAI" if truth.provider in {"openai", "azure_openai"} else "others"
        pairs = []
        if truth.has_request and usage.input_tokens:
            pairs.append((_prompt_kind(truth), record.input_tokens, usage.input_tokens))
        if usage.output_tokens:
            kind = _completion_kind(truth, hidden=usage.reasoning_tokens > 0)
            pairs.append((kind, record.output_tokens, usage.output_tokens))
        for kind, estimate, true in pairs:
            for group in ("all", whose):
                self._pairs[kind, group, form].append((estimate, true))

    def median(self, kind: str, whose: str, form: str) -> float:
        """Give the median of the error's size, as a part of the truth."""
        return _quantile(self._sizes((kind, whose, form)), 0.5)

    def _sizes(self, key: tuple[str, str, str]) -> list[float]:
        return sorted(abs(estimate - truth) / truth for estimate, truth in self._pairs[key])

    def render(self) -> str:
        """Give the table: errors as parts of the truth, in tokens, and of the sum of all."""
        columns = ("n", "median", "p95", "tokens", "sum")
        lines = [f"{'estimated against reported tokens':<46}" + _cells(columns)]
        for key, pairs in sorted(self._pairs.items()):
            sizes = self._sizes(key)
            tokens = _quantile(sorted(abs(estimate - truth) for estimate, truth in pairs), 0.5)
            estimated, true = (sum(side) for side in zip(*pairs, strict=True))
            cells = [
                f"{_quantile(sizes, 0.5):.1%}",
                f"{_quantile(sizes, 0.95):.1%}",
                f"{tokens:.0f}",
            ]
            cells.append(f"{estimated / true - 1:+.1%}")
            name = f"{key[0]}: {key[1]}, {key[2]}"
            lines.append(f"{name:<46}" + _cells([len(pairs), *cells]))
        return "\n".join(lines)


def _prompt_kind(truth: Recorded) -> str:
    if truth.has_media:
        return "prompt, media"
    return "prompt, tools" if "tools" in truth.features else "prompt, text"


def _completion_kind(truth: Recorded, *, hidden: bool) -> str:
    if hidden:
        shown = "shown" if "thinking" in truth.features else "hidden"
        return f"completion, reasoning {shown}"
    return "completion, tool call" if "tool_call" in truth.features else "completion, text"


def _cells(cells: Iterable[object]) -> str:
    return "".join(f"{cell:>10}" for cell in cells)


def _quantile(ordered: list[float], part: float) -> float:
    """Give the nearest-rank quantile."""
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]
