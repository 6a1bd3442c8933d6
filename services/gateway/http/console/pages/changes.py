"""Changes that a person makes at a page: each is one request of the public API."""

from collections.abc import Mapping, Sequence
from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from services.gateway.http.console.api import ApiAnswer, path_of
from services.gateway.http.console.context import Visit, VisitDep
from services.gateway.http.console.pages import policies
from services.gateway.http.console.route import ConsoleRoute, form_of, number_in
from services.gateway.http.edge.context import AdminCaller, TrainCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

DONE: Mapping[str, str] = {
    "retire": "retired",
    "restore": "restored",
    "cancel": "cancelled",
    "pause": "paused",
    "resume": "resumed",
    "pin": "pinned",
    "unpin": "unpinned",
    "evict": "evicted",
    "prewarm": "loaded",
}
"""Name of the sentence that a page shows after a change, by the change."""


def back_to(*path: object, said: str) -> Response:
    """Return the way to a page that says what was done."""
    return RedirectResponse(f"{path_of(*path)}?said={said}", status_code=303)


def refused_page(visit: Visit, answer: ApiAnswer, *path: object) -> Response:
    """Return a page with what the API refused, and the way back."""
    return visit.pages.show(visit, "not_done.html", status=answer.status, answer=answer, back=path_of(*path))


@router.post("/console/policies/{policy}/aliases")
async def place_alias(policy: str, _caller: TrainCaller, visit: VisitDep) -> Response:
    """Point an alias at a revision, at its first time or again."""
    form = form_of(visit)
    return await _move(visit, policy, form.get("alias", "").strip(), form)


@router.post("/console/policies/{policy}/aliases/{alias}/move")
async def move_alias(policy: str, alias: str, _caller: TrainCaller, visit: VisitDep) -> Response:
    """Point an alias at another revision, unless it has been moved since the page was shown."""
    return await _move(visit, policy, alias, form_of(visit))


async def _move(visit: Visit, policy: str, alias: str, form: Mapping[str, str]) -> Response:
    revision = form.get("revision", "").strip()
    body = {
        "revision": number_in(revision),
        "expected": form.get("expected"),
        "reason": form.get("reason", ""),
    }
    answer = await visit.send("PUT", "mint", "v1", "policies", policy, "aliases", alias or " ", body=body)
    if answer.is_ok:
        return back_to("console", "policies", policy, "aliases", alias, said="moved")
    return await _shown_again(visit, policy, alias, form, answer)


@router.post("/console/policies/{policy}/aliases/{alias}/rollback")
async def roll_back(policy: str, alias: str, _caller: TrainCaller, visit: VisitDep) -> Response:
    """Roll an alias back, unless it has been moved since the page was shown."""
    form = form_of(visit)
    body = {"expected": form.get("expected"), "reason": form.get("reason", "")}
    place = ("mint", "v1", "policies", policy, "aliases", alias, "rollback")
    answer = await visit.send("POST", *place, body=body)
    if answer.is_ok:
        return back_to("console", "policies", policy, "aliases", alias, said="rolled-back")
    return await _shown_again(visit, policy, alias, form, answer)


async def _shown_again(
    visit: Visit, policy: str, alias: str, form: Mapping[str, str], answer: ApiAnswer
) -> Response:
    """Return the alias's page as it is now, with what was typed and why it was refused."""
    place = ("mint", "v1", "policies", policy, "aliases", alias or " ")
    found = await visit.get(*place)
    if not found.is_ok:
        return refused_page(visit, answer, "console", "policies", policy)
    history = await visit.get(*place, "history", limit=policies.MOVES)
    return visit.pages.show(
        visit,
        "alias.html",
        section="policies",
        status=answer.status,
        policy=policy,
        alias=found.data,
        history=history,
        typed=form,
        refused=answer,
    )


@router.post("/console/policies/{policy}/aliases/{alias}/protect")
async def protect(policy: str, alias: str, _caller: AdminCaller, visit: VisitDep) -> Response:
    """Allow only admin keys to move an alias, or allow others again."""
    return await _guard(visit, policy, alias, "protect", "protected")


@router.post("/console/policies/{policy}/aliases/{alias}/freeze")
async def freeze(policy: str, alias: str, _caller: AdminCaller, visit: VisitDep) -> Response:
    """Stop rules from moving an alias, or let them again."""
    return await _guard(visit, policy, alias, "freeze", "frozen")


async def _guard(visit: Visit, policy: str, alias: str, change: str, field: str) -> Response:
    wished = form_of(visit).get(field) == "true"
    here = ("policies", policy, "aliases", alias)
    said = field if wished else f"un{field}"
    return await send_change(visit, "POST", *here, change, body={field: wished}, here=here, said=said)


@router.post("/console/policies/{policy}/revisions/{revision}/{change}")
async def change_revision(
    policy: str, revision: str, change: Literal["retire", "restore"], _caller: TrainCaller, visit: VisitDep
) -> Response:
    """Retire or restore a revision."""
    here = ("policies", policy, "revisions", revision)
    return await send_change(visit, "POST", *here, change, here=here, said=DONE[change])


@router.post("/console/jobs/{job}/{change}")
async def change_job(
    job: str, change: Literal["cancel", "pause", "resume"], _caller: TrainCaller, visit: VisitDep
) -> Response:
    """Cancel, pause or resume a job."""
    here = ("jobs", job)
    return await send_change(visit, "POST", *here, change, here=here, said=DONE[change])


@router.post("/console/fine_tuning/{job}/{change}")
async def change_fine_tuning(
    job: str, change: Literal["cancel", "pause", "resume"], _caller: TrainCaller, visit: VisitDep
) -> Response:
    """Cancel, pause or resume a job on a file."""
    here = ("console", "fine_tuning", job)
    answer = await visit.send("POST", "v1", "fine_tuning", "jobs", job, change)
    return back_to(*here, said=DONE[change]) if answer.is_ok else refused_page(visit, answer, *here)


@router.post("/console/policies/{policy}/rules/{rule}/{change}")
async def change_rule(
    policy: str,
    rule: str,
    change: Literal["pause", "resume", "remove"],
    _caller: AdminCaller,
    visit: VisitDep,
) -> Response:
    """Pause, resume or remove a promotion rule."""
    rules = ("policies", policy, "rules")
    if change == "remove":
        return await send_change(visit, "DELETE", *rules, rule, here=rules, said="removed")
    here = (*rules, rule)
    return await send_change(visit, "POST", *here, change, here=here, said=f"rule-{DONE[change]}")


@router.post("/console/evaluations/{run}/cancel")
async def cancel_run(run: str, _caller: TrainCaller, visit: VisitDep) -> Response:
    """Cancel an evaluation run."""
    place, here = ("evaluations", "run", run, "cancel"), ("evaluations", run)
    return await send_change(visit, "POST", *place, here=here, said="changed")


@router.post("/console/residency/{digest}/{change}")
async def change_residency(
    digest: str,
    change: Literal["pin", "unpin", "evict", "prewarm"],
    _caller: TrainCaller,
    visit: VisitDep,
) -> Response:
    """Load, pin, unpin or evict a revision."""
    place, here = ("adapters", digest, change), ("residency",)
    return await send_change(visit, "POST", *place, here=here, said=DONE[change])


async def send_change(
    visit: Visit, method: str, *place: str, here: Sequence[str], said: str, body: object = None
) -> Response:
    """Send a change to ``place`` below ``/mint/v1``; return the way back to ``here``, or the refusal."""
    answer = await visit.send(method, "mint", "v1", *place, body=body)
    if answer.is_ok:
        return back_to("console", *here, said=said)
    return refused_page(visit, answer, "console", *here)
