"""The source of a base as users name it: a folder, a known name, or a model of a hub."""

import re
from dataclasses import dataclass

_HUB = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[A-Za-z0-9][\w./-]*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A repository of models at a branch, tag or commit."""

    repo: str
    revision: str = "main"


def read_hub_source(text: str) -> HubSource | None:
    """Return the model of a hub for `ORG/NAME` or `ORG/NAME@REVISION`, None for other text."""
    match = _HUB.fullmatch(text)
    return HubSource(repo=match["repo"], revision=match["revision"] or "main") if match else None


def usual_name(source: str) -> str:
    """Return the default name of a base: the last part of its source."""
    hub = read_hub_source(source)
    text = hub.repo if hub else source.rstrip("/")
    return text.rpartition("/")[2].lower().replace(".", "-")
