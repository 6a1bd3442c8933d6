"""Lists of a tenant's sessions, training runs, and the checkpoints that the trainers store."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response

from mint_common.ids import BaseName, PolicyId, TenantId
from mint_common.json_reading import read_json
from mint_common.training import CheckpointRecord, CheckpointSummary, PolicySummary, cursor_of
from services.gateway.core.tinker.ids import check_session_id
from services.gateway.core.tinker.listings import cursor_json, moment, run_json, session_json
from services.gateway.core.tinker.records import ClientSession, TrainingRun
from services.gateway.core.tinker.session_search import SearchBody, check_search, is_found, place_of
from services.gateway.core.tinker.texts import check_text
from services.gateway.http.edge.context import ReadCaller
from services.gateway.http.edge.routes import TinkerRoute
from services.gateway.http.tinker.bodies import BodyDep, answer
from services.gateway.http.tinker.context import Tinker, TinkerDep
from services.gateway.http.tinker.operations import find_run

router = APIRouter(route_class=TinkerRoute)

LimitQuery = Annotated[int, Query(ge=1, le=1000)]
OffsetQuery = Annotated[int, Query(ge=0, le=2**31)]
_PAGE = 1000
_SEARCH_PAGE, _SEARCHED = 500, 10_000
"""Sessions that a search reads at a time, and the number after which it ends a page."""


@router.get("/training_runs")
async def training_runs(
    caller: ReadCaller,
    tinker: TinkerDep,
    limit: LimitQuery = 20,
    offset: OffsetQuery = 0,
    project_id: str | None = None,
) -> Response:
    """List the tenant's training runs, newest first."""
    if project_id is not None:
        check_text("project_id", project_id)
    runs, total = await tinker.runs.runs(caller.tenant_id, limit=limit, offset=offset, project_id=project_id)
    of_policy = await _summaries(tinker, runs)
    shown = [run_json(run, of_policy.get(run.policy_id, PolicySummary())) for run in runs]
    cursor = cursor_json(limit=limit, offset=offset, total=total)
    return answer({"training_runs": shown, "cursor": cursor})


@router.get("/training_runs/{model_id}")
async def training_run(model_id: str, caller: ReadCaller, tinker: TinkerDep) -> Response:
    """Return one training run."""
    run = await find_run(tinker, model_id, caller.tenant_id)
    of_policy = await _summaries(tinker, [run])
    return answer(run_json(run, of_policy.get(run.policy_id, PolicySummary())))


@router.get("/sessions")
async def sessions(
    caller: ReadCaller, tinker: TinkerDep, limit: LimitQuery = 20, offset: OffsetQuery = 0
) -> Response:
    """List the ids of the tenant's sessions, newest first."""
    found = await tinker.runs.sessions(caller.tenant_id, limit=limit, offset=offset)
    return answer({"sessions": [session.session_id for session in found]})


@router.post("/sessions/search")
async def search_sessions(body: BodyDep, caller: ReadCaller, tinker: TinkerDep) -> Response:
    """List the tenant's matching sessions, newest first."""
    wish = check_search(read_json(body, SearchBody))
    found, last = await _search(tinker, caller.tenant_id, wish)
    runs = await tinker.runs.runs_of_sessions([session.session_id for session in found])
    of_policy = await _summaries(tinker, runs)
    checkpoints: defaultdict[str, list[CheckpointSummary]] = defaultdict(list)
    for run in runs:
        checkpoints[run.session_id] += of_policy.get(run.policy_id, PolicySummary()).checkpoints
    now = tinker.clock.now()
    shown = [session_json(each, checkpoints=checkpoints[each.session_id], now=now) for each in found]
    cursor = None
    if last is not None:
        cursor = {"last_created_at": moment(last.created_at), "last_session_id": last.session_id}
    return answer({"sessions": shown, "next_cursor": cursor})


@router.get("/sessions/{session_id}")
async def session(session_id: str, caller: ReadCaller, tinker: TinkerDep) -> Response:
    """Return the training runs and samplers of a session."""
    found = await tinker.session(check_session_id(session_id), caller.tenant_id)
    runs = await tinker.runs.runs_of_sessions([session_id])
    return answer(
        {
            "training_run_ids": [run.model_id for run in runs],
            "sampler_ids": await tinker.sampling_sessions.of_session(session_id),
            "user_metadata": found.metadata or None,
            "display_name": found.display_name,
        }
    )


async def list_checkpoints(
    tinker: Tinker, tenant_id: TenantId, *, run: TrainingRun | None = None
) -> list[CheckpointRecord]:
    """Return the checkpoints of a tenant or of one run, newest first."""
    bases = await tinker.runs.bases(tenant_id) if run is None else [run.base]
    policy_id = None if run is None else run.policy_id
    pages = await asyncio.gather(*(checkpoints_of(tinker, tenant_id, base, policy_id) for base in bases))
    found = [record for page in pages for record in page]
    return sorted(found, key=lambda record: record.created_at, reverse=True)


async def checkpoints_of(
    tinker: Tinker, tenant_id: TenantId, base: BaseName, policy_id: PolicyId | None = None
) -> list[CheckpointRecord]:
    """Return the checkpoints at the trainer of a base, of a tenant or of one policy, newest first."""
    trainer = await tinker.catalog.trainers.find(base)
    found: list[CheckpointRecord] = []
    after: str | None = None
    while True:
        page = await trainer.checkpoints(tenant_id, policy_id=policy_id, limit=_PAGE, after=after)
        found += page
        if len(page) < _PAGE:
            return found
        after = cursor_of(page[-1])


async def _summaries(tinker: Tinker, runs: Sequence[TrainingRun]) -> dict[PolicyId, PolicySummary]:
    """Return the summaries of runs: one request per base and page of runs."""
    by_base: defaultdict[BaseName, list[PolicyId]] = defaultdict(list)
    for run in runs:
        by_base[run.base].append(run.policy_id)
    found: dict[PolicyId, PolicySummary] = {}
    for base, policies in by_base.items():
        trainer = await tinker.catalog.trainers.find(base)
        for begin in range(0, len(policies), _PAGE):
            found |= await trainer.summaries(policies[begin : begin + _PAGE])
    return found


async def _search(
    tinker: Tinker, tenant_id: TenantId, wish: SearchBody
) -> tuple[list[ClientSession], ClientSession | None]:
    """Return a page of matching sessions, and the last session of the page if there may be another page."""
    found: list[ClientSession] = []
    before = None if wish.cursor is None else place_of(wish.cursor)
    now = tinker.clock.now()
    for _ in range(0, _SEARCHED, _SEARCH_PAGE):
        page = await tinker.runs.sessions(tenant_id, limit=_SEARCH_PAGE, before=before)
        for session in page:
            if is_found(session, wish, now=now):
                found.append(session)
                if len(found) == wish.limit:
                    return found, session
        if len(page) < _SEARCH_PAGE:
            return found, None
        before = page[-1].created_at, page[-1].session_id
    return found, page[-1]
