"""Members of the fleet: engines and trainers renew their rows, gateways and rollout read them."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter, Response
from pydantic import Field, StringConstraints

from mint_common.catalog_requests import Body, Label
from mint_common.ids import BaseName
from mint_common.members import Beat, Member, MemberKind, MemberState
from mint_common.names import BASE_NAME_PATTERN
from mint_common.runtime.edge_routes import BodyRoute
from services.registry.http.context import RegistryDep

router = APIRouter(prefix="/internal/members", route_class=BodyRoute)

MEMBER_ID = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"


class BeatBody(Body):
    """What a member says of itself (`mint_common.members.Beat`)."""

    epoch: Label
    started_at: Annotated[float, Field(ge=0)]
    url: Annotated[str, StringConstraints(max_length=300, pattern=r"^https?://[^\s/]+$")]
    base: Annotated[str, StringConstraints(pattern=rf"^-$|{BASE_NAME_PATTERN}")]
    state: MemberState


MemberId = Annotated[str, StringConstraints(pattern=MEMBER_ID)]


@router.put("/{kind}/{member_id}", status_code=204)
async def beat(kind: MemberKind, member_id: MemberId, body: BeatBody, registry: RegistryDep) -> Response:
    """Renew a member's row."""
    said = {**body.model_dump(), "kind": kind, "member_id": member_id, "base": BaseName(body.base)}
    await registry.members.beat(msgspec.convert(said, Beat))
    return Response(status_code=204)


@router.delete("/{kind}/{member_id}/{epoch}", status_code=204)
async def leave(kind: MemberKind, member_id: MemberId, epoch: Label, registry: RegistryDep) -> Response:
    """Remove a member that ends, if this process has the row."""
    await registry.members.leave(kind, member_id, epoch)
    return Response(status_code=204)


@router.get("")
async def list_members(registry: RegistryDep) -> Sequence[Member]:
    """Return every member that has been heard of lately, by kind, base and name."""
    return await registry.members.members()
