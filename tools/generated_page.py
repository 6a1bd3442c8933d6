"""What scripts that generate pages share: write them, or say with ``--check`` whether they are current."""

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]


def generate(
    description: str, pages: Mapping[Path, Callable[[], str]], *, take: Callable[[], object] | None = None
) -> NoReturn:
    """Write pages and end; with ``--check`` show how they differ, and end with 1 where one does.

    With ``--take`` what tests found last is checked in first, by ``take``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is not current")
    if take is not None:
        parser.add_argument("--take", action="store_true", help="check in what tests found last")
    options = parser.parse_args()
    if take is not None and options.take:
        take()
    different = [page for page, render in pages.items() if not _is_current(page, render(), options.check)]
    for page in different:
        print(f"{page.relative_to(ROOT)} is not current: run tools/{Path(sys.argv[0]).name}", file=sys.stderr)
    sys.exit(1 if different else 0)


def _is_current(page: Path, text: str, check: bool) -> bool:  # noqa: FBT001  # of the command line
    """Write a page, or compare it and show the difference."""
    if not check:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text)
        return True
    old = page.read_text() if page.exists() else ""
    lines = difflib.unified_diff(old.splitlines(True), text.splitlines(True), "checked in", "current")
    sys.stdout.writelines(lines)
    return old == text


def between(page: Path, begin: str, end: str, text: str) -> str:
    """Return a page with another text between two of its lines, and these."""
    before, _, rest = page.read_text().partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
