"""``mint/forward_backward_reverse_kl``: what Mind Lab's toolkit adds to the ways of training."""

from fastapi import APIRouter, Response

from services.gateway.core.tinker.distillation import ReverseKlBody, place_of_distill, plan_distill
from services.gateway.core.tinker.ids import parse_path
from services.gateway.http.context import GatewayDep, TrainCaller
from services.gateway.http.routes import TinkerRoute
from services.gateway.http.tinker.bodies import RequestKeyDep, read
from services.gateway.http.tinker.operations import find_checkpoint, find_run, ref_of, submit
from services.gateway.http.tinker.places import PlacedBodyDep

router = APIRouter(route_class=TinkerRoute)


@router.post("/mint/forward_backward_reverse_kl")
async def forward_backward_reverse_kl(
    body: PlacedBodyDep, key: RequestKeyDep, caller: TrainCaller, gateway: GatewayDep
) -> Response:
    """Add the gradient of the reverse KL to a checkpoint's policy, of which the caller may read the weights.

    Without a number it comes behind all that has arrived; it is done once for all requests of one key.
    """
    wish = read(body, ReverseKlBody)
    path = parse_path("reference_model_path", wish.reference_model_path)
    seq = place_of_distill(wish, key=key)
    run = await find_run(gateway, wish.model_id, caller.tenant_id)
    teacher, _ = await find_checkpoint(gateway, path, caller)
    operation = plan_distill(wish, ref_of(path, teacher))
    return await submit(gateway, run, seq, operation, kind="distill")
