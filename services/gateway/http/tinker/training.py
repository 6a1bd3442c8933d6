"""Training runs: create, describe, step, unload."""

from fastapi import APIRouter, Request, Response

from mint_common.errors import InvalidField
from mint_common.ids import BaseName
from mint_common.json_reading import read_json
from mint_common.lora import check_trainable
from mint_common.training import Close, Open
from services.gateway.core.tinker.ids import MAX_SEQ, check_seq, model_id_of, parse_path
from services.gateway.core.tinker.lora import base_name, lora_of
from services.gateway.core.tinker.passes import NumberedPass, read_json_pass, read_protobuf_pass
from services.gateway.core.tinker.records import RunShape
from services.gateway.core.tinker.texts import check_metadata
from services.gateway.core.tinker.training_requests import (
    CreateModelBody,
    ModelBody,
    OptimStepBody,
    ReverseKlBody,
    check_optimizer,
    distill_seq,
    plan_distill,
    plan_step,
)
from services.gateway.http.edge.context import CallerDep, ReadCaller, TrainCaller
from services.gateway.http.edge.routes import TinkerRoute
from services.gateway.http.tinker.bodies import BodyDep, RequestKeyDep, answer
from services.gateway.http.tinker.context import Tinker, TinkerDep
from services.gateway.http.tinker.operation_bodies import OperationBodyDep, is_protobuf
from services.gateway.http.tinker.operations import find_run, open_run, submit

router = APIRouter(route_class=TinkerRoute)


@router.post("/create_model")
async def create_model(body: BodyDep, caller: TrainCaller, tinker: TinkerDep) -> Response:
    """Create a training run: a policy and its training session. Idempotent by session and number."""
    wish = read_json(body, CreateModelBody)
    check_optimizer(wish.optimizer_config)
    if wish.lora_config is None:
        raise InvalidField(field="lora_config", problem="is missing; only LoRA training is supported")
    seq = check_seq(wish.model_seq_id, field="model_seq_id", least=0)
    session = await tinker.session(wish.session_id, caller.tenant_id)
    base = await tinker.catalog.registry.get_base(BaseName(base_name(wish.base_model)))
    check_trainable(base, field="base_model")
    lora = lora_of(wish.lora_config, base, model_id=model_id_of(session.session_id, seq))
    shape = RunShape(
        base=base.name,
        base_model=wish.base_model,
        lora=lora,
        train_attn=wish.lora_config.train_attn,
        train_mlp=wish.lora_config.train_mlp,
    )
    metadata = check_metadata("user_metadata", wish.user_metadata)
    run = await open_run(tinker, session, seq, shape, metadata=metadata)
    return await submit(tinker, run, 0, Open(base=run.base, lora=run.lora), kind="create")


@router.post("/get_info")
async def get_info(body: BodyDep, caller: ReadCaller, tinker: TinkerDep) -> Response:
    """Return a training run and the place of its tokenizer."""
    run = await find_run(tinker, read_json(body, ModelBody).model_id, caller.tenant_id)
    base = await tinker.catalog.registry.get_base(run.base)
    data = {"arch": base.architecture, "model_name": run.base_model}
    tokenizer_id = tinker.tokenizers.get(run.base)
    if tokenizer_id is not None:
        data["tokenizer_id"] = tokenizer_id
    return answer(
        {
            "type": "get_info",
            "model_id": run.model_id,
            "model_data": data,
            "optimizer_config": {"type": "adamw"},
            "is_lora": True,
            "lora_rank": run.lora.rank,
            "model_name": run.base_model,
        }
    )


@router.post("/forward_backward")
async def forward_backward(
    request: Request, body: OperationBodyDep, caller: TrainCaller, tinker: TinkerDep
) -> Response:
    """Compute a loss and add its gradient; with ``forward_only`` compute only the loss."""
    placed = read_protobuf_pass(body) if is_protobuf(request) else read_json_pass(body, backward=True)
    return await _submit_pass(placed, caller, tinker)


@router.post("/forward")
async def forward(body: OperationBodyDep, caller: TrainCaller, tinker: TinkerDep) -> Response:
    """Compute only a loss, for clients before 0.25."""
    return await _submit_pass(read_json_pass(body, backward=False), caller, tinker)


@router.post("/optim_step")
async def optim_step(body: OperationBodyDep, caller: TrainCaller, tinker: TinkerDep) -> Response:
    """Take an optimizer step with the gradient, and clear it."""
    wish = read_json(body, OptimStepBody)
    seq = check_seq(wish.seq_id)
    step = plan_step(wish.adam_params, wish.optimizer_params)
    run = await find_run(tinker, wish.model_id, caller.tenant_id)
    return await submit(tinker, run, seq, step, kind="step")


@router.post("/unload_model")
async def unload_model(body: BodyDep, caller: TrainCaller, tinker: TinkerDep) -> Response:
    """End a training session after all submitted operations; its checkpoints stay.

    Clients do not number this operation, so it gets the highest number.
    """
    run = await find_run(tinker, read_json(body, ModelBody).model_id, caller.tenant_id)
    return await submit(tinker, run, MAX_SEQ, Close(), kind="close")


async def _submit_pass(placed: NumberedPass, caller: CallerDep, tinker: Tinker) -> Response:
    run = await find_run(tinker, placed.model_id, caller.tenant_id)
    return await submit(tinker, run, placed.seq, placed.operation, kind="pass")


@router.post("/mint/forward_backward_reverse_kl")
async def forward_backward_reverse_kl(
    body: OperationBodyDep, key: RequestKeyDep, caller: TrainCaller, tinker: TinkerDep
) -> Response:
    """Add the gradient of the reverse KL to the policy of a checkpoint whose weights the caller may read.

    Without a number it runs after all operations received so far; it runs once for all requests of one key.
    """
    wish = read_json(body, ReverseKlBody)
    path = parse_path("reference_model_path", wish.reference_model_path)
    seq = distill_seq(wish, key=key)
    run = await find_run(tinker, wish.model_id, caller.tenant_id)
    _, teacher = await tinker.checkpoints.find(path, caller.tenant_id)
    operation = plan_distill(wish, teacher.ref)
    return await submit(tinker, run, seq, operation, kind="distill")
