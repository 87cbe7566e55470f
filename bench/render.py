"""Turn the bench's results into tables: plain text for a terminal, Markdown for the README.

`python -m bench.render RESULTS.json README.md` replaces what stands between the two marker comments
`<!-- bench:begin -->` and `<!-- bench:end -->`; nothing else in the file is touched.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
YARDSTICK, DIRECT = "nginx", "direct"
MARK = "*"
TIMES = "\u00d7"
NONE = "-"
NOT_BUSY = (
    f"`{MARK}` does not compare: the gateway's core was less than 95 % busy with it (latency:"
    " others took more than 5 % of that core), or an answer was wrong."
)

Cell = dict[str, Any]


def price(row: dict[str, Any], cell: Cell) -> float | None:
    """Give what the row is about: CPU µs a chunk in a stream, else a request."""
    value: float | None = cell["cpu_us_chunk" if row["stream"] else "cpu_us_request"]
    return value


def ratio(row: dict[str, Any], name: str, base_name: str = YARDSTICK) -> str:
    """Give a peer's price over the yardstick's; marked unless both count."""
    base = row["peers"].get(base_name)
    mine = price(row, row["peers"][name])
    theirs = price(row, base) if base else None
    if not mine or not theirs:
        return ""
    counts = base["counts"] and row["peers"][name]["counts"]
    return f"{mine / theirs:.2f} {TIMES}{_mark(counts)}"


def plain(results: dict[str, Any]) -> str:
    """Give every figure, a line for each row and peer."""
    head = ("row", "peer", "req/s", "CPU us/req", "us/chunk", "x nginx", "busy", "others",
            "p50 us", "p99 us", "first us", "RSS MiB", "errors")  # fmt: skip
    lines = [head]
    for row in results["rows"]:
        for name, cell in row["peers"].items():
            direct = name == DIRECT
            lines.append((
                row["name"], name, _number(cell["per_second"], 0),
                _number(cell["cpu_us_request"], 1), _number(cell["cpu_us_chunk"], 2),
                "" if direct else ratio(row, name), f"{cell['busy']:.0%}",
                f"{cell['others']:.0%}",
                _number(cell["p50_us"], 0), _number(cell["p99_us"], 0),
                _number(cell["first_p50_us"], 0) if row["stream"] else "",
                _number(cell["rss_mib"], 1), str(cell["errors"]),
            ))  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    table = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
             for line in lines]  # fmt: skip
    others = "busy, others: the gateway's and everybody else's share of the gateway's core."
    return "\n".join([*table, "", _conditions(results), others, NOT_BUSY, *results["notes"]])


def markdown(results: dict[str, Any]) -> str:
    """Give the README's tables: every gateway as one plain peer, then fastgw's configurations."""
    variants = results.get("variants", {})
    names = [name for name in results["versions"] if name not in variants]
    lines = [
        "| | " + " | ".join(f"{name} {results['versions'][name]}" for name in names) + " |",
        "|---|" + "---|" * len(names),
        *_prices(results, names),
        *_latencies(results, names),
        *_sizes(results, names),
    ]
    if variants:
        lines += ["", *_configurations(results, variants)]
    notes = [_conditions(results), *results["notes"]]
    if any(MARK in line for line in lines):
        notes.insert(0, NOT_BUSY)
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip()


def _prices(results: dict[str, Any], names: list[str]) -> list[str]:
    lines = []
    for row in results["rows"]:
        if row.get("latency") or not row["peers"].keys() & set(names):
            continue
        unit = "chunk" if row["stream"] else "request"
        lines.append(_line(f"CPU µs a {unit}: {row['title']}", [_priced(row, n) for n in names]))
    return lines


def _latencies(results: dict[str, Any], names: list[str]) -> list[str]:
    rows = {row["name"]: row["peers"] for row in results["rows"]}
    lines = []
    for name, figure, title in (
        ("json-1", "p50_us", "µs added to p50, 1 connection"),
        ("stream-1", "first_p50_us", "µs added to the first chunk, 1 connection"),
    ):
        if DIRECT not in (peers := rows.get(name, {})):
            continue
        base = peers[DIRECT][figure]
        cells = [peers.get(each) for each in names]
        added = [f"{c[figure] - base:.0f}{_mark(_undisturbed(c))}" if c else NONE for c in cells]
        lines.append(_line(f"{title} (direct: {base:.0f})", added))
    return lines


def _sizes(results: dict[str, Any], names: list[str]) -> list[str]:
    lines = []
    many: dict[str, Cell] = next(
        (row["peers"] for row in results["rows"] if row["name"] == "json-64"), {}
    )
    cells = [many.get(name) for name in names]
    if any(cells):
        rates = [f"{c['per_second']:,.0f}{_mark(c['counts'])}" if c else NONE for c in cells]
        lines.append(_line("requests/s on one core, 64 connections", rates))
        sizes = [f"{c['rss_mib']:.0f}" if c else NONE for c in cells]
        lines.append(_line("RSS MiB under that load", sizes))
    for figure, title in (
        ("idle_rss_mib", "RSS MiB, idle"),
        ("kib_per_stream", "KiB an open, silent stream"),
        ("tls_kib_per_stream", "KiB an open, silent stream, TLS on both sides"),
    ):
        found = [results.get("idle", {}).get(name, {}).get(figure) for name in names]
        if any(found):
            lines.append(_line(title, [_number(each, 1) or NONE for each in found]))
    return lines


def _configurations(results: dict[str, Any], variants: dict[str, str]) -> list[str]:
    """Give what each way to run fastgw costs, in times of the plain one."""
    rows = [
        row for row in results["rows"]
        if not row.get("latency") and row["peers"].keys() & variants.keys()
    ]  # fmt: skip
    lines = [_line("fastgw, CPU µs", [row["title"] for row in rows]), "|---|" + "---|" * len(rows)]
    for name, title in {"fastgw": "as above", **variants}.items():
        if name in results["versions"]:
            lines.append(_line(title, [_priced(row, name, base="fastgw") for row in rows]))
    return lines


def insert(text: str, block: str) -> str:
    """Put `block` between the markers of `text`; ValueError unless each is there once, in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"the markers {BEGIN} and {END} must each stand there once, in this order")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def _mark(counts: bool) -> str:
    return "" if counts else MARK


def _undisturbed(cell: Cell) -> bool:
    return bool(cell["others"] <= 0.05 and not cell["errors"])


def _priced(row: dict[str, Any], name: str, base: str = YARDSTICK) -> str:
    cell = row["peers"].get(name)
    if cell is None:
        return NONE
    shown = _number(price(row, cell), 2 if row["stream"] else 1)
    against = ratio(row, name, base)
    return f"{shown} ({against})" if against else f"{shown}{_mark(cell['counts'])}"


def _line(title: str, cells: list[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _conditions(results: dict[str, Any]) -> str:
    machine, settings = results["machine"], results["settings"]
    return (
        f"{results['date']}, {machine['cpu']} with {machine['cores']} cores, {machine['kernel']};"
        f" medians of {settings['rounds']} interleaved rounds of {settings['seconds']} s."
    )


def main(argv: list[str]) -> int:
    """Render a results file into a document."""
    if len(argv) != 2:
        print("usage: python -m bench.render RESULTS.json README.md", file=sys.stderr)
        return 2
    results, document = json.loads(Path(argv[0]).read_text()), Path(argv[1])
    document.write_text(insert(document.read_text(), markdown(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
