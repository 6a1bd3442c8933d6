"""All routes under ``/api/v1``. Their wire format is another project's, so our schema leaves them out."""

from fastapi import APIRouter

from services.gateway.http.tinker import (
    checkpoints,
    configuration,
    distillation,
    downloads,
    futures,
    interpolation,
    left_out,
    listings,
    samplers,
    sampling,
    sessions,
    training,
    weights,
)
from services.gateway.http.tinker.errors import PREFIX

router = APIRouter(prefix=PREFIX, include_in_schema=False)
for _module in (
    configuration,
    sessions,
    training,
    distillation,
    weights,
    downloads,
    checkpoints,
    listings,
    samplers,
    sampling,
    futures,
    interpolation,
    left_out,
):
    router.include_router(_module.router)
