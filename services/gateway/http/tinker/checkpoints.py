"""Checkpoints: listed, deleted, published, given an end."""

from fastapi import APIRouter, Response

from mint_common.authority import Caller
from mint_common.training import CheckpointRecord, Close, Export, Ingredient, Open
from services.gateway.core.tinker.ids import CheckpointPath, checkpoint_path, keyed_session_id, parse_model_id
from services.gateway.core.tinker.listings import Page, checkpoint_json, cursor_json
from services.gateway.core.tinker.mixtures import (
    InterpolateBody,
    check_alike,
    metadata_of,
    output_name,
    read_sources,
)
from services.gateway.core.tinker.training_requests import TtlBody
from services.gateway.http.edge.context import Gateway, GatewayDep, ReadCaller, TrainCaller
from services.gateway.http.edge.routes import TinkerRoute
from services.gateway.http.tinker.bodies import BodyDep, RequestKeyDep, answer, nothing, read
from services.gateway.http.tinker.listings import LimitQuery, OffsetQuery, list_checkpoints
from services.gateway.http.tinker.operations import find_checkpoint, find_run, open_run, ref_of, submit
from services.gateway.http.tinker.sessions import add_ended_session

router = APIRouter(route_class=TinkerRoute)

PUBLISHED = "published"
"""The alias of a run's policy that points at the sampler checkpoint that was published last."""
_ONE = "/training_runs/{model_id}/checkpoints/{checkpoint_id:path}"


@router.get("/checkpoints")
async def checkpoints(
    caller: ReadCaller, gateway: GatewayDep, limit: LimitQuery = 100, offset: OffsetQuery = 0
) -> Response:
    """List the tenant's checkpoints, newest first."""
    found = await list_checkpoints(gateway, caller.tenant_id)
    page = Page(limit=limit, offset=offset, total=len(found))
    shown = [await _shown(gateway, record) for record in found[offset : offset + limit]]
    return answer({"checkpoints": shown, "cursor": cursor_json(page)})


@router.get("/training_runs/{model_id}/checkpoints")
async def checkpoints_of_run(model_id: str, caller: ReadCaller, gateway: GatewayDep) -> Response:
    """List a training run's checkpoints, newest first."""
    run = await find_run(gateway, model_id, caller.tenant_id)
    found = await list_checkpoints(gateway, caller.tenant_id, run=run)
    return answer({"checkpoints": [checkpoint_json(record, model_id=model_id) for record in found]})


@router.post(f"{_ONE}/publish")
async def publish(model_id: str, checkpoint_id: str, caller: TrainCaller, gateway: GatewayDep) -> Response:
    """Let everybody read a checkpoint; one for samplers becomes what its policy's alias points at."""
    path = _path(model_id, checkpoint_id)
    record = await _set_public(gateway, caller, path, is_public=True)
    if record.revision is not None:
        await gateway.registry.move_alias(
            caller, record.policy_id, PUBLISHED, revision=record.revision, reason=f"published {path}"
        )
        gateway.resolver.forget(caller.tenant_id, record.policy_id)
    return nothing()


@router.delete(f"{_ONE}/publish")
async def unpublish(model_id: str, checkpoint_id: str, caller: TrainCaller, gateway: GatewayDep) -> Response:
    """Let only its tenant read a checkpoint. The alias stays where it is: it is moved or rolled back."""
    await _set_public(gateway, caller, _path(model_id, checkpoint_id), is_public=False)
    return nothing()


@router.put(f"{_ONE}/ttl")
async def set_ttl(
    model_id: str, checkpoint_id: str, body: BodyDep, caller: TrainCaller, gateway: GatewayDep
) -> Response:
    """Let a checkpoint end so many seconds from now, or never."""
    wish = read(body, TtlBody)
    path = _path(model_id, checkpoint_id)
    run, _ = await find_checkpoint(gateway, path, caller, own=True)
    trainer = await gateway.tinker.trainers.find(run.base)
    await trainer.expire_checkpoint(ref_of(path, run), ttl_seconds=wish.ttl_seconds)
    return nothing()


@router.delete(_ONE)
async def delete(model_id: str, checkpoint_id: str, caller: TrainCaller, gateway: GatewayDep) -> Response:
    """Delete a checkpoint. A revision that a sampler, an alias or an engine uses goes on being served."""
    path = _path(model_id, checkpoint_id)
    run, _ = await find_checkpoint(gateway, path, caller, own=True)
    trainer = await gateway.tinker.trainers.find(run.base)
    await trainer.delete_checkpoint(ref_of(path, run))
    return nothing()


def _path(model_id: str, checkpoint_id: str) -> CheckpointPath:
    parse_model_id(model_id)
    return checkpoint_path(model_id, checkpoint_id)


async def _set_public(
    gateway: Gateway, caller: Caller, path: CheckpointPath, *, is_public: bool
) -> CheckpointRecord:
    run, _ = await find_checkpoint(gateway, path, caller, own=True)
    trainer = await gateway.tinker.trainers.find(run.base)
    return await trainer.publish_checkpoint(ref_of(path, run), is_public=is_public)


async def _shown(gateway: Gateway, record: CheckpointRecord) -> object:
    run = await gateway.tinker.runs.run_of_policy(record.policy_id)
    assert run is not None, "the run's row is older than its checkpoint's"
    return checkpoint_json(record, model_id=run.model_id)


@router.post("/mint/checkpoints/interpolate")
async def interpolate(
    body: BodyDep, key: RequestKeyDep, caller: TrainCaller, gateway: GatewayDep
) -> Response:
    """Mix checkpoints of one base and shape into a sampler checkpoint, once for all requests of one key."""
    wish = read(body, InterpolateBody)
    paths, name = read_sources(wish), output_name(wish)
    found = [await find_checkpoint(gateway, path, caller) for path in paths]
    check_alike([record for _, record in found])
    source, record = found[0]
    session_id = keyed_session_id(caller.tenant_id, key)
    session = await add_ended_session(
        gateway, caller, session_id=session_id, project_id=None, tag="interpolation"
    )
    run = await open_run(
        gateway,
        session,
        0,
        base=source.base,
        base_model=source.base_model,
        lora=record.lora,
        trains=(source.train_attn, source.train_mlp),
        metadata={},
    )
    mixture = tuple(
        Ingredient(checkpoint=ref_of(path, each), coefficient=coefficient)
        for path, (each, _), coefficient in zip(paths, found, wish.coefficients, strict=True)
    )
    await submit(gateway, run, 0, Open(base=run.base, lora=run.lora, mixture=mixture), kind="create")
    export = Export(name=name, ttl_seconds=wish.ttl_seconds, metadata=metadata_of(wish))
    future = await submit(gateway, run, 1, export, kind="mix", detail=name)
    await submit(gateway, run, 2, Close(), kind="close")
    return future
