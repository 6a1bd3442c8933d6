"""Weights: save, export for samplers, load, copy, describe."""

from dataclasses import replace

from fastapi import APIRouter, Response

from mint_common.authority import Caller
from mint_common.errors import InvalidField
from mint_common.ids import BaseName, Digest
from mint_common.json_reading import read_json
from mint_common.training import CheckpointRecord, CheckpointRef, Export, Load, Open, Save
from services.gateway.core.tinker.ids import CheckpointPath, FutureKind, check_seq, parse_path
from services.gateway.core.tinker.lora import base_name
from services.gateway.core.tinker.records import TrainingRun
from services.gateway.core.tinker.texts import check_metadata
from services.gateway.core.tinker.training_requests import (
    CopyBody,
    LoadBody,
    SaveBody,
    SaveForSamplerBody,
    WeightsInfoBody,
    check_optimizer,
    checkpoint_name,
)
from services.gateway.http.edge.context import ReadCaller, TrainCaller
from services.gateway.http.edge.routes import TinkerRoute
from services.gateway.http.tinker.bodies import BodyDep, RequestKeyDep, answer
from services.gateway.http.tinker.context import Tinker, TinkerDep
from services.gateway.http.tinker.operation_bodies import OperationBodyDep
from services.gateway.http.tinker.operations import find_run, open_run, submit
from services.gateway.http.tinker.sessions import add_ended_session

router = APIRouter(route_class=TinkerRoute)


@router.post("/save_weights")
async def save_weights(body: OperationBodyDep, caller: TrainCaller, tinker: TinkerDep) -> Response:
    """Save a training run's whole state under a name."""
    wish = read_json(body, SaveBody)
    seq = check_seq(wish.seq_id)
    save = Save(
        name=checkpoint_name(wish.path, seq),
        overwrite=wish.overwrite,
        ttl_seconds=wish.ttl_seconds,
        metadata=dict(check_metadata("user_metadata", wish.user_metadata)),
    )
    run = await find_run(tinker, wish.model_id, caller.tenant_id)
    return await submit(tinker, run, seq, save, kind="save")


@router.post("/save_weights_for_sampler")
async def save_weights_for_sampler(
    body: OperationBodyDep, caller: TrainCaller, tinker: TinkerDep
) -> Response:
    """Export a training run's weights as a revision: under a name, or into a sampling session."""
    wish = read_json(body, SaveForSamplerBody)
    seq = check_seq(wish.seq_id)
    name: str | None = None
    kind: FutureKind = "export"
    if wish.sampling_session_seq_id is None:
        name = detail = checkpoint_name(wish.path, seq)
    elif wish.path is not None:
        raise InvalidField(field="path", problem="and sampling_session_seq_id exclude each other")
    else:
        detail = str(check_seq(wish.sampling_session_seq_id, field="sampling_session_seq_id", least=0))
        kind = "inflight" if wish.kind == "inflight" else "open"
    export = Export(
        name=name,
        ttl_seconds=wish.ttl_seconds,
        metadata=dict(check_metadata("user_metadata", wish.user_metadata)),
    )
    run = await find_run(tinker, wish.model_id, caller.tenant_id)
    return await submit(tinker, run, seq, export, kind=kind, detail=detail)


@router.post("/load_weights")
async def load_weights(body: OperationBodyDep, caller: TrainCaller, tinker: TinkerDep) -> Response:
    """Continue from a checkpoint: an existing training run, or a new one of a session."""
    wish = read_json(body, LoadBody)
    path = parse_path("path", wish.path)
    if path.kind != "training":
        problem = f"{wish.path} is a sampler checkpoint: name a path with .../weights/..."
        raise InvalidField(field="path", problem=problem)
    check_optimizer(wish.optimizer_config)
    if wish.session_id is not None:
        return await _create_by_load(wish, path, caller, tinker)
    if wish.model_id is None:
        raise InvalidField(field="model_id", problem="is missing, and so is session_id")
    seq = check_seq(wish.seq_id)
    run = await find_run(tinker, wish.model_id, caller.tenant_id)
    _, record = await tinker.checkpoints.find(path, caller.tenant_id)
    load = Load(checkpoint=record.ref, with_optimizer=wish.optimizer)
    return await submit(tinker, run, seq, load, kind="load", detail=str(path))


@router.post("/weights_info")
async def weights_info(body: BodyDep, caller: ReadCaller, tinker: TinkerDep) -> Response:
    """Return the shape of a training run that can load a checkpoint."""
    path = parse_path("tinker_path", read_json(body, WeightsInfoBody).tinker_path)
    run, record = await tinker.checkpoints.find(path, caller.tenant_id)
    return answer(
        {
            "base_model": run.base_model,
            "optimizer_config": {"type": "adamw"},
            "is_lora": True,
            "lora_rank": record.lora.rank,
            "train_unembed": False,
            "train_mlp": run.train_mlp,
            "train_attn": run.train_attn,
        }
    )


@router.post("/copy_weights")
async def copy_weights(body: BodyDep, key: RequestKeyDep, caller: TrainCaller, tinker: TinkerDep) -> Response:
    """Copy an own or public checkpoint to a training run that only holds copies.

    The run is the session's run with that number, or without a session one per request key; it is created
    once.
    """
    wish = read_json(body, CopyBody)
    path = parse_path("source_path", wish.source_path)
    source, record = await tinker.checkpoints.find(path, caller.tenant_id)
    if wish.session_id is None:
        session = await add_ended_session(
            tinker, caller, key=key, tag="copy", project_id=wish.destination_project_id
        )
        seq = 0
    else:
        session = await tinker.session(wish.session_id, caller.tenant_id)
        seq = check_seq(wish.model_seq_id, field="model_seq_id", least=0)
    run = await open_run(tinker, session, seq, source, is_trained=False)
    if record.revision is not None:
        await _copy_revision(tinker, record, run)
    copied = CheckpointRef(policy_id=run.policy_id, kind=path.kind, name=path.name)
    trainer = await tinker.catalog.trainers.find(run.base)
    await trainer.copy_checkpoint(
        record.ref, copied, tenant_id=caller.tenant_id, ttl_seconds=wish.ttl_seconds
    )
    return answer({"tinker_path": str(replace(path, model_id=run.model_id))})


async def _create_by_load(wish: LoadBody, path: CheckpointPath, caller: Caller, tinker: Tinker) -> Response:
    seq = check_seq(wish.model_seq_id, field="model_seq_id", least=0)
    session = await tinker.session(wish.session_id or "", caller.tenant_id)
    source, record = await tinker.checkpoints.find(path, caller.tenant_id)
    if wish.base_model is not None and BaseName(base_name(wish.base_model)) != source.base:
        problem = f"must be {source.base_model}, the checkpoint's, got {wish.base_model[:100]!r}"
        raise InvalidField(field="base_model", problem=problem)
    shape = replace(source, base_model=wish.base_model or source.base_model)
    metadata = check_metadata("user_metadata", wish.user_metadata)
    run = await open_run(tinker, session, seq, shape, metadata=metadata)
    opened = Open(base=run.base, lora=run.lora, checkpoint=record.ref, with_optimizer=wish.optimizer)
    return await submit(tinker, run, 0, opened, kind="load", detail=str(path))


async def _copy_revision(tinker: Tinker, record: CheckpointRecord, run: TrainingRun) -> None:
    """Copy the revision of a sampler checkpoint to another policy: equal weights, equal digest."""
    digest = Digest(record.revision or "")
    source = await tinker.catalog.registry.get_revision(record.tenant_id, record.policy_id, digest)
    files = await tinker.catalog.revision_files.find(source.manifest)
    copied = await tinker.catalog.registry.upload_revision(
        run.tenant_id, run.policy_id, tinker.catalog.revision_files.read_tar(files), step=record.step
    )
    if copied.digest != digest:
        raise InvalidField(field="source_path", problem="has an adapter whose upload has another digest")
