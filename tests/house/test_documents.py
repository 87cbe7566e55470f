"""What the documents tell a stranger to type must exist, and what they show must be accepted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from fastgw.cli import VERBS, build
from fastgw.config import load
from fastgw.metrics import FAMILIES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
CODE = re.compile(r"```(\w*)\n(.*?)```|`([^`\n]+)`", re.DOTALL)
EVERYWHERE = {"--help", "--json", "--csv", "--config", "--debug"}


def snippets(page: Path) -> Iterator[tuple[str, str]]:
    """Give (language, text) of each piece of code; inline pieces count as shell."""
    for language, block, inline in CODE.findall(page.read_text()):
        yield (language, block) if block else ("sh", inline)


def commands(program: str) -> set[str]:
    """Give every command line of the documents that begins with `program`."""
    found = set()
    for page in PAGES:
        for language, text in snippets(page):
            if language not in {"sh", ""}:
                continue
            for line in text.replace("\\\n", " ").splitlines():
                if re.match(rf"{program} [a-z]", line.strip()):
                    found.add(line.split("#")[0].strip())
    return found


def targets() -> set[str]:
    """Give the targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_make_target_named_in_a_document_exists():
    named = {line.split()[1] for line in commands("make")}
    assert named >= {"run", "test", "smoke"}
    assert named - targets() == set()


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    listed = set(re.findall(r"@echo 'make ([a-z-]+) ", text))
    assert listed == targets() - {"help"}
    assert set(re.findall(r"^\.PHONY: (.*)", text, re.MULTILINE)[0].split()) == targets()


@pytest.mark.parametrize("line", sorted(commands("fastgw")))
def test_every_fastgw_command_in_a_document_exists(line: str):
    words = shlex.split(line)[1:]
    assert words[0] in VERBS
    command: Any = typer.main.get_command(build(words[:1]))
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        # "create|list|show" stands for each of them
        assert set(words.pop(0).split("|")) <= set(command.commands)
        return
    options = {option for each in command.params for option in each.opts + each.secondary_opts}
    given = {word.split("=")[0] for word in words if word.startswith("--")}
    assert given - options - EVERYWHERE == set()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```yaml" in page.read_text()], ids=lambda page: page.name
)
def test_every_configuration_shown_is_accepted(page: Path, tmp_path: Path):
    """Pieces of one page are put together: an alias may name a model shown above it."""
    whole: dict[str, Any] = {}
    for language, text in snippets(page):
        if language == "yaml":
            whole |= yaml.safe_load(text.replace("/run/secrets", str(tmp_path)))
    for name in re.findall(rf"{tmp_path}/([\w-]+)", str(whole)):
        (tmp_path / name).write_text("a-secret-that-is-long-enough-0123456789\n")
        (tmp_path / name).chmod(0o600)
    whole["providers"] = [{**p, "ca_file": None} for p in whole.get("providers", ())]
    file = tmp_path / "fastgw.yaml"
    file.write_text(yaml.safe_dump(whole))
    loaded = load({}, str(file), {"OPENAI_API_KEY": "sk-shown-in-a-document"}, tmp_path)
    assert [p.name for p in loaded.settings.providers] == [p["name"] for p in whole["providers"]]


def test_operations_lists_every_metric_as_it_is_declared():
    """Name, labels and help are those of `fastgw.metrics`, in its order."""
    text = (ROOT / "docs/operations.md").read_text()
    shown = re.findall(r"^\| `(fastgw_\w+)` \|(.*)\| (.*) \|$", text, re.MULTILINE)
    listed = [(name, tuple(re.findall(r"`(\w+)`", labels)), told) for name, labels, told in shown]
    declared = [(family.name, family.labels, family.help) for family in FAMILIES.values()]
    assert [row for row in listed if row[0] != "fastgw_build_info"] == declared


def test_every_relative_link_leads_somewhere():
    missing = [
        (page.name, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_the_readme_has_one_place_for_the_benchmarks():
    text = (ROOT / "README.md").read_text()
    assert text.count("<!-- bench:begin -->\n") == text.count("<!-- bench:end -->\n") == 1
    assert text.index("<!-- bench:begin -->") < text.index("<!-- bench:end -->")
