"""Check that texts which stand alone are sentences in plain words; CONTRIBUTING.md has the list of words.

Checked are the docstrings of constants, the descriptions of settings, the help of commands and metrics, and
the subjects of commits that are not pushed. `python tools/check_words.py [FOLDER...]` prints each fault.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("services", "libs")

FRAGMENTS = frozenset(
    (
        *(
            "of",
            "how",
            "as",
            "what",
            "where",
            "when",
            "who",
            "whom",
            "whose",
            "whoever",
            "which",
            "that",
            "why",
        ),
        *("in", "to", "from", "for", "by", "with", "without", "until", "before", "after", "since", "so"),
        *("more", "fewer", "less", "between", "behind", "beside", "beyond", "under", "over", "among"),
    )
)
"""First words of a text that cannot stand alone: the subject comes first."""

PLAIN = {
    "anew": "again, from the start",
    "begins anew": "restarts",
    "comes to": "is, adds up to",
    "is told": "receives, gets",
    "are told": "receive, get",
    "nobody": "no caller, no client, no process",
    "on its way": "in flight, being sent",
    "on their way": "in flight, being sent",
    "patience": "time limit, timeout",
    "whoever": "the caller, the client, the process",
}
"""Words that have to be decoded, with the field's words for them."""

MAX_SUBJECT = 72
"""Maximum characters of a commit's subject."""

_SUBJECT = re.compile(r"[a-z0-9][a-z0-9_/, -]*: \S")
_WORDS = re.compile(r"\b(" + "|".join(PLAIN) + r")\b", re.IGNORECASE)
_FIRST = re.compile(r"[A-Za-z]+")
_HELP = frozenset(("help", "description", "epilog", "summary"))
_METRICS = frozenset(("Counter", "Gauge", "Histogram", "Summary", "Info"))


@dataclass(frozen=True, slots=True)
class Text:
    """A text that stands alone, with the place where it is written."""

    line: int
    kind: str
    words: str


def texts(tree: ast.Module) -> Iterator[Text]:
    """Yield the texts of a module that stand alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            yield from _documented(node.body)
        elif isinstance(node, ast.Call):
            yield from _told(node)


def faults(text: Text) -> Iterator[str]:
    """Yield what is wrong with a text."""
    first = _FIRST.match(text.words)
    if first and first.group().lower() in FRAGMENTS:
        yield f"begins with {first.group()!r}: name the thing first"
    for found in _WORDS.findall(text.words):
        yield f"{found!r}: {PLAIN[found.lower()]}"


def _documented(body: list[ast.stmt]) -> Iterator[Text]:
    """Yield the docstrings of constants and fields."""
    for statement, following in pairwise(body):
        is_name = isinstance(statement, ast.Assign | ast.AnnAssign)
        if is_name and isinstance(following, ast.Expr) and (words := _string(following.value)):
            yield Text(following.lineno, "constant", words)


def _told(call: ast.Call) -> Iterator[Text]:
    """Yield the help of an option, a command, a setting or a metric."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in _METRICS and len(call.args) > 1 and (words := _string(call.args[1])):
        yield Text(call.args[1].lineno, "help", words)
    for keyword in call.keywords:
        if keyword.arg in _HELP and (words := _string(keyword.value)):
            yield Text(keyword.value.lineno, "help", words)


def _string(node: ast.expr) -> str:
    return node.value.strip() if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def subject_faults(subject: str) -> Iterator[str]:
    """Yield what is wrong with a commit's subject."""
    if len(subject) > MAX_SUBJECT:
        yield f"has {len(subject)} characters, more than {MAX_SUBJECT}"
    if not _SUBJECT.match(subject):
        yield "does not begin with its area: 'loader: drop a load that waits too long'"


def unpushed_subjects() -> list[str]:
    """Return the subjects of the commits that upstream does not have; none without an upstream."""
    command = ("git", "log", "--no-merges", "--format=%s", "@{upstream}..")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def check(paths: Iterable[Path]) -> list[str]:
    """Return a line for each fault in these files."""
    lines = []
    for path in paths:
        found = [(text, fault) for text in texts(ast.parse(path.read_text())) for fault in faults(text)]
        for text, fault in sorted(found, key=lambda pair: pair[0].line):
            lines.append(f"{path.relative_to(ROOT)}:{text.line}: {fault}: {text.words.splitlines()[0]}")
    return lines


def main() -> int:
    """Print the faults of the folders that are named, or of all."""
    folders = [ROOT / name for name in sys.argv[1:] or FOLDERS]
    lines = check(path for folder in folders for path in sorted(folder.rglob("*.py")))
    lines += [
        f"commit {subject!r} {fault}" for subject in unpushed_subjects() for fault in subject_faults(subject)
    ]
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
