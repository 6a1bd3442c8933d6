"""What the scripts that generate a page share: write it, or say with ``--check`` whether it is current."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser that knows ``--check``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is not current")
    return parser


def write_or_check(page: Path, render: Callable[[], str], *, tool: str, check: bool) -> int:
    """Write the page or compare it; return the exit status: 1 if it was to be current and is not."""
    text = render()
    if not check:
        page.write_text(text)
        return 0
    current = page.exists() and page.read_text() == text
    if not current:
        print(f"{page.relative_to(ROOT)} is not current: run tools/{tool}", file=sys.stderr)
    return 0 if current else 1
