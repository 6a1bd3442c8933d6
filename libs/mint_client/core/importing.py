"""Decisions of `mint policy import`: names of policies and bases, and what a report of many says."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mint_common.errors import InvalidField, MintError
from mint_common.names import MAX_NAME

_OTHER = re.compile(r"[^a-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An adapter of a collection: its path there, and what changes when its files do."""

    path: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOutcome:
    """The result of importing one adapter. ``error`` is "" if it became a revision."""

    adapter: str
    version: str
    policy: str
    revision: int | None = None
    digest: str = ""
    notes: Sequence[str] = field(default=())
    error: str = ""
    problem: str = ""


def policy_name(path: str) -> str:
    """Return the name of a policy for an adapter's path: ``Team A/run_7`` is ``team-a-run_7``."""
    name = _OTHER.sub("-", path.lower().removesuffix(".tar")).strip("-._")
    return name[:MAX_NAME].rstrip("-._")


def base_for(named: str, bases: Sequence[str]) -> str:
    """Return the base of an adapter that names one as PEFT does: by a path, or by a name on a hub.

    Where the stack has but one, it is that one: shapes decide whether it is right. Raises InvalidField.
    """
    leaf = named.rstrip("/").rpartition("/")[2].lower()
    if leaf in bases:
        return leaf
    if len(bases) == 1:
        return bases[0]
    known = ", ".join(bases) or "none"
    problem = f"the adapter names {named!r:.120}, and the bases of this stack are {known}: say which"
    raise InvalidField(field="--base", problem=problem)


def by_policy(adapters: Iterable[Listed]) -> tuple[dict[str, Listed], list[ImportOutcome]]:
    """Return adapters by the name of their policy, and those whose name another one has."""
    chosen: dict[str, Listed] = {}
    refused: list[ImportOutcome] = []
    for each in adapters:
        name = policy_name(each.path)
        if not name or name in chosen:
            problem = f"its policy would be called {name!r}"
            if name:
                problem += f", as that of {chosen[name].path}"
            refused.append(
                outcome_of(each, name, InvalidField(field="name", problem=f"{problem}: rename it"))
            )
        else:
            chosen[name] = each
    return chosen, refused


def outcome_of(adapter: Listed, policy: str, error: Exception) -> ImportOutcome:
    """Return the outcome of an adapter that was refused."""
    code = "unreadable"
    if isinstance(error, MintError):
        code = str(error.fields.get("remote_code", error.code))
    return ImportOutcome(
        adapter=adapter.path, version=adapter.version, policy=policy, error=code, problem=str(error)
    )


def taken_before(report: Iterable[str], *, stack: str) -> set[Listed]:
    """Return the adapters that a report has as taken by a stack; half a line counts for nothing."""
    taken: set[Listed] = set()
    for line in report:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, Mapping) and row.get("stack") == stack and not row.get("error"):
            taken.add(Listed(path=str(row.get("adapter")), version=str(row.get("version"))))
    return taken


def report_line(outcome: ImportOutcome, *, stack: str) -> str:
    """Return the line of a report: JSON without what is empty."""
    row = {"stack": stack} | {name: getattr(outcome, name) for name in ImportOutcome.__slots__}
    return json.dumps({name: value for name, value in row.items() if value not in ("", None, ())})
