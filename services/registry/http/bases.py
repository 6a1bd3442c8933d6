"""Bases, which trainers and loaders register at their start; and collection of unused revisions and bytes."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints

from mint_common.adapters_format.base_facts import BaseFacts, ProbeStatus
from mint_common.adapters_format.sites import refused_targets
from mint_common.catalog import CollectionReport
from mint_common.catalog_requests import Body, Label
from mint_common.errors import BodyTooLarge, InvalidField
from mint_common.ids import unpack_digests
from mint_common.names import BASE_NAME_PATTERN, MAX_LIMIT, base_key
from mint_common.runtime.edge_routes import BodyRoute, StreamDep
from services.registry.http.context import RegistryDep

router = APIRouter(prefix="/internal", route_class=BodyRoute)

MAX_USED_BYTES = 128 << 20
"""Maximum answer of digests in use: four million digests."""

ModuleName = Annotated[str, StringConstraints(max_length=200, pattern=r"^[A-Za-z0-9_.]+$")]
TensorName = Annotated[str, StringConstraints(max_length=200, pattern=r"^[A-Za-z0-9_.*]+$")]
Sentence = Annotated[str, StringConstraints(max_length=1000)]
Features = Annotated[int, Field(ge=1)]


class ExpertsBody(Body):
    """The experts of one layer (`mint_common.adapters_format.ExpertsFacts`)."""

    count: Annotated[int, Field(ge=1)]
    projections: Annotated[dict[ModuleName, tuple[Features, Features]], Field(min_length=1)]
    gated: bool = True
    biased: bool = False
    transposed: bool = False
    interleaved: bool = False


class ProbeLineBody(Body):
    """A line of a probe (`mint_common.adapters_format.ProbeLine`)."""

    part: Label
    status: ProbeStatus
    nats: float | None = None
    note: Annotated[str, StringConstraints(max_length=8000)] = ""
    right: tuple[ModuleName, ...] = ()


class ProbeBody(Body):
    """The results of a base's probe (`mint_common.adapters_format.ProbeResult`)."""

    lines: Annotated[tuple[ProbeLineBody, ...], Field(max_length=100)]
    dtype: Label
    small: Sentence
    seconds: Annotated[float, Field(ge=0)]


class BaseBody(Body):
    """The facts of a base (`mint_common.adapters_format.BaseFacts`)."""

    name: Annotated[str, StringConstraints(pattern=BASE_NAME_PATTERN)]
    digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    architecture: Label
    vocab_size: Annotated[int, Field(ge=1)]
    max_context: Annotated[int, Field(ge=1)]
    targets: Annotated[tuple[ModuleName, ...], Field(min_length=1)]
    modules: Annotated[dict[ModuleName, tuple[Features, Features]], Field(min_length=1)]
    max_rank: Annotated[int, Field(ge=1)]
    experts: Annotated[dict[ModuleName, ExpertsBody], Field(default_factory=dict)]
    norms: Annotated[dict[ModuleName, Annotated[float, Field(ge=0)]], Field(default_factory=dict)]
    quantization: Annotated[str, StringConstraints(max_length=40)] = ""
    layer_kinds: tuple[ModuleName, ...] = ()
    window: Annotated[int | None, Field(ge=1)] = None
    shares_prompts: bool | None = None
    checkpoint_names: Annotated[dict[ModuleName, TensorName], Field(default_factory=dict)]
    refused: Annotated[dict[ModuleName, Sentence], Field(default_factory=dict)]
    served_only: bool = False
    trained_only: bool = False
    probe: ProbeBody | None = None

    def to_facts(self) -> BaseFacts:
        """Return the record."""
        return msgspec.convert(self.model_dump(), BaseFacts)


@router.put("/bases/{name}")
async def put_base(name: str, body: BaseBody, registry: RegistryDep) -> BaseFacts:
    """Register a base, or return the registered one."""
    if body.name != name:
        raise InvalidField(field="name", problem=f"{body.name!r} is not {name!r}, the name in the path")
    return _explained(await registry.catalog.put_base(body.to_facts(), now=registry.clock.now()))


@router.get("/bases")
async def list_bases(registry: RegistryDep) -> Sequence[BaseFacts]:
    """Return all bases by name."""
    return [_explained(base) for base in await registry.catalog.bases()]


@router.get("/bases/{name}")
async def get_base(name: str, registry: RegistryDep) -> BaseFacts:
    """Return a base."""
    return _explained(await registry.catalog.base(base_key(name)))


def _explained(base: BaseFacts) -> BaseFacts:
    """Return a base with the reason of every target that policies may not have."""
    return replace(base, refused=dict(refused_targets(base)))


@router.post("/collection")
async def collect(
    body: StreamDep,
    registry: RegistryDep,
    dry_run: bool,  # noqa: FBT001  # a query
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)],
) -> CollectionReport:
    """Retire and remove unused items, or list them. The body has the digests in use, as `pack_digests`."""
    packed = bytearray()
    async for chunk in body:
        packed += chunk
        if len(packed) > MAX_USED_BYTES:
            raise BodyTooLarge(limit_bytes=MAX_USED_BYTES)
    try:
        used = await asyncio.to_thread(unpack_digests, bytes(packed))
    except ValueError as error:
        raise InvalidField(field="used", problem=str(error)) from error
    return await registry.collector.collect(used=used, dry_run=dry_run, limit=limit)
