"""Where a revision comes from and who saw it: the step that made it, the aliases that pointed at it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.gateway.core.console.exposures import Exposure, exposures_of, step_of
from services.gateway.http.console.api import ApiAnswer
from services.gateway.http.console.context import Visit

ALIASES, MOVES = 20, 200
"""Aliases of a policy whose moves are read, and moves of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The job and the step that made a revision, and the aliases that pointed at it.

    ``job`` is None without one, ``step`` if no known step made the revision. ``aliases`` is the answer that
    lists the policy's aliases; ``is_partial``: not all of their moves were read.
    """

    job: ApiAnswer | None
    step: int | None
    aliases: ApiAnswer
    exposures: list[Exposure]
    is_partial: bool


async def provenance_of(visit: Visit, policy: str, revision: Mapping[str, Any]) -> Provenance:
    """Return the provenance of a policy's revision."""
    job, (aliases, exposures, is_partial) = await asyncio.gather(
        _job_of(visit, revision), _exposures(visit, policy, revision["number"])
    )
    step = step_of(job.data, revision["number"]) if job is not None and job.is_ok else None
    return Provenance(job=job, step=step, aliases=aliases, exposures=exposures, is_partial=is_partial)


async def _job_of(visit: Visit, revision: Mapping[str, Any]) -> ApiAnswer | None:
    job = revision["job_id"]
    return None if job is None else await visit.get("mint", "v1", "jobs", job)


async def _exposures(visit: Visit, policy: str, number: int) -> tuple[ApiAnswer, list[Exposure], bool]:
    place = ("mint", "v1", "policies", policy, "aliases")
    aliases = await visit.get(*place)
    names = [each["alias"] for each in aliases.data] if aliases.is_ok else []
    read = names[:ALIASES]
    histories = await asyncio.gather(*(visit.get(*place, name, "history", limit=MOVES) for name in read))
    found = [
        exposure
        for name, history in zip(read, histories, strict=True)
        if history.is_ok
        for exposure in exposures_of(name, history.data, number)
    ]
    is_cut = any(not each.is_ok or len(each.data) == MOVES for each in histories)
    is_partial = is_cut or len(names) > len(read)
    return aliases, sorted(found, key=lambda each: -each.since), is_partial
