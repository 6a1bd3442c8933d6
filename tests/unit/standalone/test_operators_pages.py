"""The commands that README, Start and operators' pages name are ones that `mint` has, with their options."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mint_client.cli import app

DOCS = Path(__file__).parents[3] / "docs"


def named_in(page: str) -> set[str]:
    """Return what stands behind `mint` in the page's code."""
    inline = re.findall(r"`mint ([a-z][^`]*)`", page)
    lines = re.findall(r"^mint ([a-z][^#\n]*)", page, re.MULTILINE)
    return {" ".join(each.split()) for each in (*inline, *lines)}


def unknown_in(text: str) -> Iterator[str]:
    """Yield the words of a command that `mint` does not have."""
    command: Any = typer.main.get_command(app)
    for word in text.split():
        if word.startswith("--"):
            if not any(
                word.partition("=")[0] in (*option.opts, *option.secondary_opts) for option in command.params
            ):
                yield word
        elif getattr(command, "commands", None):
            command = command.commands.get(word)
            if command is None:
                yield word
                return


PAGES = [
    DOCS.parent / "README.md",
    *sorted(DOCS.glob("start/*.md")),
    *(DOCS / "operate" / f"{name}.md" for name in ("operations", "incidents", "dashboards")),
    DOCS / "reference/metrics.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_exist(page: Path) -> None:
    named = named_in(page.read_text())

    assert {text: found for text in named if (found := list(unknown_in(text)))} == {}


def test_a_command_that_is_not_there_is_found() -> None:
    page = "Say `mint job shew JOB` or `mint gc --delete`.\n```sh\nmint up --bse tiny\n```\n"

    assert {word for text in named_in(page) for word in unknown_in(text)} == {"shew", "--delete", "--bse"}
    assert len(named_in((DOCS / "operate/operations.md").read_text())) > 15
