"""Revisions of policies: uploaded, listed, compared, retired; and their scores, from any evaluator."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from mint_common.answer_ids import digest_prefix_in
from mint_common.catalog import (
    AliasPeriod,
    EvaluationRecord,
    FaultyRevision,
    Lineage,
    OwnedRevision,
    RevisionDiff,
    RevisionRecord,
    UploadedRevision,
)
from mint_common.catalog_requests import (
    AliasPeriodQuery,
    DiffQuery,
    EvaluationBody,
    FaultyQuery,
    LineageQuery,
    PageQuery,
    RevisionQuery,
    UploadQuery,
)
from mint_common.errors import InvalidField, NotFound, RevisionLostError, Unavailable, error_from_payload
from mint_common.generation import REVISION_HEADER
from mint_common.ids import Digest, TenantId
from mint_common.runtime.disconnect import cancelled_on_disconnect
from mint_common.runtime.edge_routes import StreamDep, include_routes
from mint_common.runtime.slow_clients import BodyTooSlow
from mint_common.training import Done, Loaded, Refused, Resumption
from services.gateway.core.mint.merged import check_mergeable, first_byte, merged_tag
from services.gateway.core.mint.uploads import REFUSED, TAR_BODY, stalled
from services.gateway.http.edge.bodies import answered
from services.gateway.http.edge.context import ReadCaller, TrainCaller
from services.gateway.http.edge.downloads import Download
from services.gateway.http.edge.recording import RecordedRoute, RepeatableDep, creates
from services.gateway.http.mint.context import CatalogDep, CatalogParts
from services.gateway.http.mint.forwarding import PolicyPath, ReadCatalog, RevisionPath, TrainCatalog

FILES_HEADER = "x-mint-sha256"
_PREFIX = "/mint/v1/policies/{policy}"
_revisions = APIRouter(prefix=f"{_PREFIX}/revisions", tags=["policies"], route_class=RecordedRoute)
_owned = APIRouter(prefix="/mint/v1/revisions", tags=["policies"], route_class=RecordedRoute)
_evaluations = APIRouter(prefix=f"{_PREFIX}/evaluations", tags=["evaluations"], route_class=RecordedRoute)


@_owned.get("/faulty", response_model=list[FaultyRevision])
async def list_faulty(_page: Annotated[FaultyQuery, Query()], catalog: ReadCatalog) -> Response:
    """List the tenant's quarantined and lost revisions, which cannot be served. Retired ones are left out.

    ``after`` is the ``place`` of the last one of the previous page.
    """
    return await catalog.forward()


@_owned.get("/{digest_or_id}")
async def find_revision(digest_or_id: str, caller: ReadCaller, parts: CatalogDep) -> list[OwnedRevision]:
    """Return the tenant's revisions with a digest, such as an answer's `x-mint-revision`, and their policies.

    The digest is given whole, by its first 16 or more hexadecimal digits, or by the `id` of an answer. Two
    policies may have equal weights; at most 100 revisions are listed.
    """
    prefix = digest_prefix_in(digest_or_id)
    found = await parts.registry.find_by_prefix(caller.tenant_id, prefix) if prefix else []
    if not found:
        raise NotFound(kind="revision", name=digest_or_id)
    return found


@_revisions.get("", response_model=list[RevisionRecord])
async def list_revisions(
    _policy: PolicyPath, _query: Annotated[RevisionQuery, Query()], catalog: ReadCatalog
) -> Response:
    """List the revisions of a policy by number; ``after`` is the last number of the previous page.

    ``state`` and the times, in seconds since the epoch, are filters that must all match.
    """
    return await catalog.forward()


@_revisions.get("/{revision}", response_model=RevisionRecord)
async def get_revision(_policy: PolicyPath, _revision: RevisionPath, catalog: ReadCatalog) -> Response:
    """Return one revision, by number or digest."""
    return await catalog.forward()


@_revisions.get("/{revision}/aliases", response_model=list[AliasPeriod])
async def list_alias_periods(
    _policy: PolicyPath,
    _revision: RevisionPath,
    _page: Annotated[AliasPeriodQuery, Query()],
    catalog: ReadCatalog,
) -> Response:
    """List the periods in which aliases pointed at a revision, newest first; removed aliases too."""
    return await catalog.forward()


@_revisions.get("/{revision}/adapter.tar", response_class=StreamingResponse)
async def download_adapter(
    policy: PolicyPath, revision: RevisionPath, caller: ReadCaller, parts: CatalogDep
) -> Response:
    """Download a revision in PEFT's format: a plain tar of its config and weights, with the same bytes each
    time.

    `x-mint-revision` is its digest, `x-mint-sha256` has the hash of each file, as `NAME=HEX, NAME=HEX`.
    """
    found = await _intact(parts, caller.tenant_id, policy, revision)
    stored = parts.revision_files
    files = await stored.find(found.manifest)
    headers = {
        REVISION_HEADER: found.digest,
        FILES_HEADER: ", ".join(f"{name}={claim.sha256}" for name, claim in files.items()),
        "content-length": str(stored.tar_bytes(files)),
        "content-disposition": f'attachment; filename="revision-{found.number}.tar"',
    }
    counted = parts.downloads.counted(caller.tenant_id)
    content = stored.read_tar(files)
    return Download(content, counted=counted, headers=headers, media_type="application/x-tar")


@_revisions.get(
    "/{revision}/merged.tar",
    response_class=StreamingResponse,
    responses={
        206: {"description": "The bytes from the start of the Range."},
        416: {"description": "The Range begins after the end."},
    },
)
async def download_merged(  # noqa: PLR0917  # FastAPI passes them by name
    policy: PolicyPath,
    revision: RevisionPath,
    request: Request,
    caller: TrainCaller,
    parts: CatalogDep,
    asked_range: Annotated[str | None, Header(alias="range")] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """Download the base with a revision merged into it: a plain tar of a transformers model.

    It is computed while it is read, without a delay at the start; `Range: bytes=N-` with the ETag in
    `If-Range` resumes a download. 422 if the base's weights are quantized.
    """
    request.app.state.in_hand.end_when_draining()
    found = await _intact(parts, caller.tenant_id, policy, revision)
    base = (await parts.registry.get_policy(caller.tenant_id, policy)).base
    check_mergeable(await parts.registry.get_base(base))
    tag = merged_tag(found.digest)
    begin = first_byte(asked_range, if_range, tag=tag)
    trainer = await parts.trainers.find(base)
    async with cancelled_on_disconnect(request):
        merged = await trainer.merged(caller.tenant_id, found.manifest, begin=begin)
    answered(request).callback(merged.close)
    left_bytes = int(merged.headers["content-length"])
    headers = {
        REVISION_HEADER: found.digest,
        "etag": tag,
        "accept-ranges": "bytes",
        "content-length": str(left_bytes),
        "content-disposition": f'attachment; filename="revision-{found.number}-merged.tar"',
    }
    if begin:
        total_bytes = begin + left_bytes
        headers["content-range"] = f"bytes {begin}-{total_bytes - 1}/{total_bytes}"
    status = 206 if begin else 200
    return StreamingResponse(merged.parts(), status, headers=headers, media_type="application/x-tar")


async def _intact(parts: CatalogParts, tenant_id: TenantId, policy: str, revision: str) -> RevisionRecord:
    """Return a revision whose bytes exist. Raises RevisionLostError."""
    found = await parts.registry.get_revision(tenant_id, policy, revision)
    if found.fault is not None:
        raise RevisionLostError(number=found.number, name=policy, fault=found.fault)
    return found


@_revisions.post(
    "",
    status_code=201,
    response_model=UploadedRevision,
    dependencies=[creates("digest")],
    openapi_extra=TAR_BODY,
    responses={422: REFUSED},
)
async def upload_revision(
    body: StreamDep,
    policy: PolicyPath,
    _query: Annotated[UploadQuery, Query()],
    parts: CatalogDep,
    catalog: TrainCatalog,
) -> Response:
    """Upload an adapter folder, as PEFT or MinT saved it, as a revision of a policy.

    The body is a plain tar of `adapter_model.safetensors` and `adapter_config.json`. It is checked like an
    export; the same weights are the same revision. With `base` a policy that does not exist is made over this
    base, with the adapter's rank, alpha and targets. Each kind of refusal has its own code, and a sentence of
    advice.
    """
    try:
        answer = await catalog.forward(body)
    except BodyTooSlow as error:
        raise stalled(error) from error
    parts.resolver.forget(catalog.caller.tenant_id, policy)
    return answer


@_revisions.post("/{revision}/retire", response_model=RevisionRecord)
async def retire_revision(
    policy: PolicyPath, _revision: RevisionPath, parts: CatalogDep, catalog: TrainCatalog
) -> Response:
    """Retire a revision: no name resolves to it. Refused while an alias points at it."""
    answer = await catalog.forward()
    parts.resolver.withdraw(catalog.caller.tenant_id, policy)
    return answer


@_revisions.post("/{revision}/restore", response_model=RevisionRecord)
async def restore_revision(
    policy: PolicyPath, _revision: RevisionPath, parts: CatalogDep, catalog: TrainCatalog
) -> Response:
    """Make a retired or quarantined revision usable again."""
    answer = await catalog.forward()
    parts.resolver.withdraw(catalog.caller.tenant_id, policy)
    return answer


class ResumedTraining(BaseModel):
    """The policy's training resumes from this revision; ``step`` counts optimizer steps from here."""

    digest: Digest
    number: int
    step: int


@_revisions.post("/{revision}/resume")
async def resume_training(
    policy: PolicyPath,
    revision: RevisionPath,
    caller: TrainCaller,
    parts: CatalogDep,
    cause: RepeatableDep,
) -> ResumedTraining:
    """Resume the policy's training from a revision, with a new optimizer.

    Send an Idempotency-Key, so that a repeat does not discard training done after the first request.

    For a policy whose training state is lost (`checkpoint_lost`) or cannot be read (`policy.parked`).
    Training since the revision is discarded. 404 for a policy that was never trained.
    """
    found = await _intact(parts, caller.tenant_id, policy, revision)
    if found.state != "published":
        problem = f"revision {found.number} is {found.state}: restore it first, or name another one"
        raise InvalidField(field="revision", problem=problem)
    record = await parts.registry.get_policy(caller.tenant_id, policy)
    trainer = await parts.trainers.find(record.base)
    asked = Resumption(
        policy_id=record.policy_id, tenant_id=caller.tenant_id, revision=found.ref, cause=cause or ""
    )
    match await trainer.resume(asked):
        case Done(result=Loaded(step=step)):
            return ResumedTraining(digest=found.digest, number=found.number, step=step)
        case Refused(error=error):
            raise error_from_payload(error)
        case _:
            raise Unavailable(what="the trainer", problem="it has not processed this yet: ask again")


@_revisions.get("/{revision}/lineage", response_model=Lineage)
async def get_lineage(
    _policy: PolicyPath,
    _revision: RevisionPath,
    _query: Annotated[LineageQuery, Query()],
    catalog: ReadCatalog,
) -> Response:
    """Return the graph around a revision: its ancestors, itself, and what was trained from it.

    ``ancestors`` and ``descendants`` limit the generations; the default is all ancestors and the children. A
    node's ``parent`` is the digest of another node, or of no revision of this policy; its ``distance`` is -1
    for the parent and 1 for a child. Beyond 1000 nodes the farthest are omitted; ``complete`` is false if any
    node is missing. To continue, ask for the lineage of a node.
    """
    return await catalog.forward()


@_revisions.get("/{revision}/diff", response_model=RevisionDiff)
async def get_diff(
    _policy: PolicyPath, _revision: RevisionPath, _query: Annotated[DiffQuery, Query()], catalog: ReadCatalog
) -> Response:
    """Compare a revision with another one of its policy, or with its parent.

    ``config`` has the fields of the manifest that differ, ``metrics`` the metrics of their training,
    ``scores`` the newest score of each suite and metric; ``modules`` has the Frobenius norm of B A in both,
    and of the change.
    """
    return await catalog.forward(is_long=True)


@_evaluations.post(
    "", status_code=201, response_model=EvaluationRecord, dependencies=[creates("evaluation_id")]
)
async def record_evaluation(_policy: PolicyPath, _body: EvaluationBody, catalog: TrainCatalog) -> Response:
    """Record a score. A key's repeat of its last score of a revision, suite and metric adds nothing."""
    return await catalog.forward()


@_evaluations.get("", response_model=list[EvaluationRecord])
async def list_evaluations(
    _policy: PolicyPath, _page: Annotated[PageQuery, Query()], catalog: ReadCatalog
) -> Response:
    """List the scores of a policy's revisions, oldest first; ``after`` is the previous page's last id."""
    return await catalog.forward()


router = APIRouter()
include_routes(router, _revisions, _owned, _evaluations)
