"""Configuration that clients ask for first: client settings, and the bases to train and to sample."""

import asyncio

from fastapi import APIRouter, Response

from mint_common.errors import MintError, Unavailable
from mint_common.ids import BaseName
from services.gateway.core.tinker.lora import ORG
from services.gateway.http.edge.context import ReadCaller
from services.gateway.http.edge.routes import TinkerRoute
from services.gateway.http.tinker.bodies import answer
from services.gateway.http.tinker.context import Tinker, TinkerDep

router = APIRouter(route_class=TinkerRoute)

CLIENT_CONFIG = {
    "credential_default_source": "api_key",
    "pjwt_auth_enabled": False,
    "parallel_fwdbwd_chunks": True,
    "proto_compress_fwdbwd": False,
    "proto_write_fwdbwd": True,
    "fwdbwd_max_chunk_len": 1024,
    "fwdbwd_max_chunk_bytes_count": 5_000_000,
    "sample_max_concurrent_requests": 2000,
    "sample_use_retrieve_futures": False,
    "create_model_via_load_weights": False,
    "custom_loss_server_side": False,
    "sample_join_sampling_session": False,
}
"""Settings for clients; the others keep each version's defaults."""
DYNAMIC_CONFIG = {
    "refresh_interval_sec": 300,
    "sample_cancel_enabled": False,
    "sample_cancel_max_batch_size": 64,
}


@router.get("/healthz")
async def healthz(_caller: ReadCaller) -> Response:
    """Report that the server answers."""
    return answer({"status": "ok"})


@router.post("/client/config")
async def client_config(_caller: ReadCaller) -> Response:
    """Return the settings for clients. The version in the body is ignored."""
    return answer(CLIENT_CONFIG)


@router.post("/client/dynamic_config")
async def dynamic_config(_caller: ReadCaller) -> Response:
    """Return the settings that clients poll."""
    return answer(DYNAMIC_CONFIG)


@router.get("/get_server_capabilities")
async def capabilities(_caller: ReadCaller, tinker: TinkerDep) -> Response:
    """Return every base that can be trained or sampled now."""
    bases, trained, sampled = await asyncio.gather(
        tinker.catalog.registry.list_bases(), _trained(tinker), _sampled(tinker)
    )
    models = [
        {
            "model_name": f"{ORG}{base.name}",
            "max_context_length": base.max_context,
            "trainable": base.name in trained,
            "sampleable": base.name in sampled,
        }
        for base in bases
    ]
    return answer({"supported_models": models})


async def _trained(tinker: Tinker) -> set[BaseName]:
    try:
        return set(await tinker.catalog.trainers.bases())
    except Unavailable:
        return set()


async def _sampled(tinker: Tinker) -> set[BaseName]:
    try:
        return {info.base for info in await tinker.catalog.engines.engines()}
    except MintError:
        return set()
