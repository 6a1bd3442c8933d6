"""Advice on revisions, engines, jobs and quotas that need attention: a sentence, an action, a page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from services.gateway.core.console.quota_rows import QuotaRow

OLD_QUEUE = 8
"""Loads waiting on one engine from which its queue is called long."""
NAMED = 5
"""Faulty revisions that are named one by one."""
FULL_HOST = 0.95
"""Share of an engine's host memory for adapters from which it is called full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A sentence, what to do, and the page that shows more."""

    text: str
    action: str
    page: str


def advice_for(
    engines: Sequence[Mapping[str, Any]],
    jobs: Sequence[Mapping[str, Any]],
    faulty: Sequence[Mapping[str, Any]] = (),
    quotas: Sequence[QuotaRow] = (),
) -> list[Advice]:
    """Return the advice for engines, jobs, faulty revisions and quotas as the API answers them."""
    return [*_of_faulty(faulty), *_of_engines(engines), *_of_jobs(jobs), *_of_quotas(quotas)]


def _of_faulty(faulty: Sequence[Mapping[str, Any]]) -> Iterable[Advice]:
    for one in faulty[:NAMED]:
        name, held = f"{one['policy']}@{one['number']}", ", ".join(one["aliases"])
        points = f", and {held} points at it" if held else ""
        page = f"/console/policies/{quote(one['policy'], safe='')}/revisions/{one['number']}"
        if one["fault"]:
            text = f"Revision {name} is lost: its stored bytes are {one['fault']}{points}."
            action = "Upload it again, or move its aliases to another revision and retire it."
        else:
            text = f"Revision {name} is quarantined: it computed numbers that are not finite{points}."
            action = "Move its aliases to another revision; restore it if you know better."
        yield Advice(text=text, action=action, page=page)
    if len(faulty) > NAMED:
        yield Advice(
            text="More revisions cannot be served.", action="Look at all of them.", page="/console/faulty"
        )


def _of_quotas(quotas: Sequence[QuotaRow]) -> Iterable[Advice]:
    for row in quotas:
        if row.is_near:
            yield Advice(
                text=f"{row.label}: {row.used} of {row.limit} are used.",
                action="Remove what is not needed, or ask an operator for more.",
                page="/console#quotas",
            )


def _of_engines(engines: Sequence[Mapping[str, Any]]) -> Iterable[Advice]:
    for engine in engines:
        name, load = engine["engine_id"], engine.get("load")
        if engine["state"] == "restarting":
            seconds = engine.get("retry_after_seconds")
            yield Advice(
                text=f"Engine {name} restarts; it is expected back in {seconds} s.",
                action="Wait; if it repeats, read `mint logs loader`.",
                page="/console/residency",
            )
        if not load:
            continue
        if load["loads_waiting"] >= OLD_QUEUE:
            yield Advice(
                text=f"{load['loads_waiting']} of your adapters wait to be loaded on engine {name}.",
                action="Add an engine of this base, or spread the requests over time.",
                page="/console/residency",
            )
        capacity = load["host_bytes_capacity"]
        if capacity and load["host_bytes"] > FULL_HOST * capacity:
            yield Advice(
                text=f"The host memory for adapters of engine {name} is full: the next load evicts one.",
                action="Unpin what is not used, or give the loader more host memory.",
                page="/console/residency",
            )


def _of_jobs(jobs: Sequence[Mapping[str, Any]]) -> Iterable[Advice]:
    for job in jobs:
        page, name = f"/console/jobs/{job['job_id']}", f"{job['policy']} ({job['job_id']})"
        if job["state"] == "failed":
            reason = f": {job['reason']}" if job["reason"] else ""
            yield Advice(
                text=f"Job {name} failed{reason}.",
                action="Read its page, mend the cause, submit it again.",
                page=page,
            )
        elif job.get("waits_for"):
            yield Advice(
                text=f"Job {name} waits: {job['waits_for']}", action="Its page says more.", page=page
            )
