"""``mint/checkpoints/interpolate``, of Mind Lab's own client: a checkpoint out of several.

A mixture is a training run that begins at the weighted sum, exports it and ends: three operations, durable
like all others.
"""

from fastapi import APIRouter, Response

from mint_common.training import Close, Export, Ingredient, Open
from services.gateway.core.tinker.mixtures import (
    InterpolateBody,
    check_alike,
    metadata_of,
    output_name,
    read_sources,
)
from services.gateway.core.tinker.repetition import keyed_session_id
from services.gateway.http.context import GatewayDep, TrainCaller
from services.gateway.http.routes import TinkerRoute
from services.gateway.http.tinker.bodies import BodyDep, RequestKeyDep, read
from services.gateway.http.tinker.operations import find_checkpoint, open_run, ref_of, submit
from services.gateway.http.tinker.sessions import add_ended_session

router = APIRouter(route_class=TinkerRoute)


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
