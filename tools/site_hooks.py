"""MkDocs hooks of `make site`: files of the repository that pages link to are pages of the site, too.

Links stay relative paths of the repository, which GitHub and an editor follow, too. In the site a file beyond
``docs`` is ``repository/<path>``, source as a block of code. The commands' page is made of their help.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)(?=(?:#[^)\s]*)?\))")
FIRST = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")
"""Pages of the navigation that no page has to link to."""
OPENAPI = "tests/golden/openapi/gateway.json"
HELP = "tests/golden/cli"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the gateway's OpenAPI document, and what is linked outside of ``docs``."""
    files.append(File.generated(config, "reference/openapi.json", abs_src_path=str(ROOT / OPENAPI)))
    files.append(File.generated(config, "reference/cli.md", content=_commands()))
    waiting = [*FIRST, *(path for file in files.documentation_pages() for path in _outside(file))]
    while waiting:
        path = waiting.pop()
        source = ROOT / path
        if files.get_file_from_path(_page_of(path)) or not source.is_file():
            continue
        file = File.generated(config, _page_of(path), content=_content(path, source.read_text()))
        files.append(file)
        waiting += _outside(file)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Point relative links at the pages that the files have here."""
    place = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = _target(page.file, link[1])
        return posixpath.relpath(_page_of(target), place or ".")

    return LINK.sub(moved, markdown)


def _outside(file: File) -> Iterator[str]:
    if file.src_uri.endswith(".md"):
        for link in LINK.finditer(file.content_string):
            target = _target(file, link[1])
            if not target.startswith("docs/"):
                yield target


def _target(file: File, link: str) -> str:
    """Return the path in the repository that a link of a page means."""
    path = file.src_uri
    here = path.removeprefix("repository/") if path.startswith("repository/") else f"docs/{path}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), link))


def _page_of(path: str) -> str:
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def _commands() -> str:
    """Return a page with the help of every command, groups before their commands."""
    head = (
        "# Commands\n\nFor users of the `mint` command: what `--help` says, of every command on one page.\n"
    )
    helps = {file.stem.replace("-", " "): file.read_text() for file in (ROOT / HELP).iterdir()}
    return head + "".join(f"\n## {name}\n\n```text\n{helps[name]}```\n" for name in sorted(helps))


def _content(path: str, text: str) -> str:
    if path.endswith(".md"):
        return text
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"# {Path(path).name}\n\n`{path}` of the repository.\n\n```{language}\n{text}```\n"
