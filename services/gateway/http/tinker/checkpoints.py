"""Checkpoints: list, delete, publish, set an expiry."""

from fastapi import APIRouter, Response

from mint_common.authority import Caller
from mint_common.client.trainer import TrainerClient
from mint_common.ids import derive_id
from mint_common.json_reading import read_json
from mint_common.training import CheckpointRecord, Close, Export, Ingredient, Open
from services.gateway.core.tinker.ids import checkpoint_path
from services.gateway.core.tinker.listings import checkpoint_json, cursor_json
from services.gateway.core.tinker.mixtures import (
    InterpolateBody,
    check_alike,
    metadata_of,
    output_name,
    read_sources,
)
from services.gateway.core.tinker.training_requests import TtlBody
from services.gateway.http.edge.context import ReadCaller, TrainCaller
from services.gateway.http.edge.routes import TinkerRoute
from services.gateway.http.tinker.bodies import BodyDep, RequestKeyDep, answer
from services.gateway.http.tinker.context import Tinker, TinkerDep
from services.gateway.http.tinker.listings import LimitQuery, OffsetQuery, list_checkpoints
from services.gateway.http.tinker.operations import find_run, open_run, submit
from services.gateway.http.tinker.sessions import add_ended_session

router = APIRouter(route_class=TinkerRoute)

PUBLISHED = "published"
"""Alias of a run's policy for the sampler checkpoint that was published last."""
_ONE = "/training_runs/{model_id}/checkpoints/{checkpoint_id:path}"


@router.get("/checkpoints")
async def checkpoints(
    caller: ReadCaller, tinker: TinkerDep, limit: LimitQuery = 100, offset: OffsetQuery = 0
) -> Response:
    """List the tenant's checkpoints, newest first."""
    found = await list_checkpoints(tinker, caller.tenant_id)
    shown = [await _shown(tinker, record) for record in found[offset : offset + limit]]
    return answer({"checkpoints": shown, "cursor": cursor_json(limit=limit, offset=offset, total=len(found))})


@router.get("/training_runs/{model_id}/checkpoints")
async def checkpoints_of_run(model_id: str, caller: ReadCaller, tinker: TinkerDep) -> Response:
    """List a training run's checkpoints, newest first."""
    run = await find_run(tinker, model_id, caller.tenant_id)
    found = await list_checkpoints(tinker, caller.tenant_id, run=run)
    return answer({"checkpoints": [checkpoint_json(record, model_id=model_id) for record in found]})


@router.post(f"{_ONE}/publish")
async def publish(
    model_id: str, checkpoint_id: str, key: RequestKeyDep, caller: TrainCaller, tinker: TinkerDep
) -> Response:
    """Publish a checkpoint to all tenants; a sampler checkpoint becomes the target of its policy's alias."""
    trainer, owned = await _own(tinker, caller, model_id, checkpoint_id)
    record = await trainer.publish_checkpoint(owned.ref, is_public=True)
    if record.revision is not None:
        path = checkpoint_path(model_id, checkpoint_id)
        await tinker.catalog.registry.move_alias(
            caller,
            record.policy_id,
            PUBLISHED,
            revision=record.revision,
            reason=f"published {path}",
            cause=derive_id("req", caller.tenant_id, f"publish {path}", key),
        )
        tinker.catalog.resolver.forget(caller.tenant_id, record.policy_id)
    return Response(status_code=204)


@router.delete(f"{_ONE}/publish")
async def unpublish(model_id: str, checkpoint_id: str, caller: TrainCaller, tinker: TinkerDep) -> Response:
    """Make a checkpoint private again. The alias stays until it is moved or rolled back."""
    trainer, owned = await _own(tinker, caller, model_id, checkpoint_id)
    await trainer.publish_checkpoint(owned.ref, is_public=False)
    return Response(status_code=204)


@router.put(f"{_ONE}/ttl")
async def set_ttl(
    model_id: str, checkpoint_id: str, body: BodyDep, caller: TrainCaller, tinker: TinkerDep
) -> Response:
    """Set the expiry of a checkpoint in seconds from now, or none."""
    wish = read_json(body, TtlBody)
    trainer, owned = await _own(tinker, caller, model_id, checkpoint_id)
    await trainer.expire_checkpoint(owned.ref, ttl_seconds=wish.ttl_seconds)
    return Response(status_code=204)


@router.delete(_ONE)
async def delete(model_id: str, checkpoint_id: str, caller: TrainCaller, tinker: TinkerDep) -> Response:
    """Delete a checkpoint. A revision that a sampler, an alias or an engine uses is still served."""
    trainer, owned = await _own(tinker, caller, model_id, checkpoint_id)
    await trainer.delete_checkpoint(owned.ref)
    return Response(status_code=204)


async def _own(
    tinker: Tinker, caller: Caller, model_id: str, checkpoint_id: str
) -> tuple[TrainerClient, CheckpointRecord]:
    """Return a checkpoint of the caller's tenant, and its trainer. Raises NotFound, InvalidField."""
    path = checkpoint_path(model_id, checkpoint_id)
    _, record = await tinker.checkpoints.find(path, caller.tenant_id, own=True)
    return await tinker.catalog.trainers.find(record.base), record


async def _shown(tinker: Tinker, record: CheckpointRecord) -> object:
    run = await tinker.runs.run_of_policy(record.policy_id)
    assert run is not None, "the run's row is older than its checkpoint's"
    return checkpoint_json(record, model_id=run.model_id)


@router.post("/mint/checkpoints/interpolate")
async def interpolate(body: BodyDep, key: RequestKeyDep, caller: TrainCaller, tinker: TinkerDep) -> Response:
    """Mix checkpoints of one base and shape into a sampler checkpoint, once for all requests of one key."""
    wish = read_json(body, InterpolateBody)
    paths, name = read_sources(wish), output_name(wish)
    found = [await tinker.checkpoints.find(path, caller.tenant_id) for path in paths]
    check_alike([record for _, record in found])
    session = await add_ended_session(tinker, caller, key=key, tag="interpolation")
    run = await open_run(tinker, session, 0, found[0][0])
    mixture = tuple(
        Ingredient(checkpoint=record.ref, coefficient=coefficient)
        for (_, record), coefficient in zip(found, wish.coefficients, strict=True)
    )
    await submit(tinker, run, 0, Open(base=run.base, lora=run.lora, mixture=mixture), kind="create")
    export = Export(name=name, ttl_seconds=wish.ttl_seconds, metadata=metadata_of(wish))
    future = await submit(tinker, run, 1, export, kind="mix", detail=name)
    await submit(tinker, run, 2, Close(), kind="close")
    return future
