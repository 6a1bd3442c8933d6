"""Where a policy's revisions come from, and what two of them differ in."""

from typing import Annotated

from fastapi import APIRouter, Query

from mint_common.catalog import Lineage, RevisionDiff
from mint_common.ids import Digest
from services.gateway.http.edge.context import GatewayDep, ReadCaller
from services.gateway.http.edge.recording import RecordedRoute

router = APIRouter(
    prefix="/mint/v1/policies/{policy}/revisions/{revision}", tags=["policies"], route_class=RecordedRoute
)
StepsQuery = Annotated[int, Query(ge=0, le=1000, examples=[3])]
AgainstQuery = Annotated[str | None, Query(max_length=100, examples=["12", "sha256:4f0e..."])]


@router.get("/lineage")
async def get_lineage(  # noqa: PLR0917  # FastAPI passes them by name
    policy: str,
    revision: str,
    caller: ReadCaller,
    gateway: GatewayDep,
    ancestors: StepsQuery = 1000,
    descendants: StepsQuery = 1,
) -> Lineage:
    """Return the graph around a revision: its ancestors, itself, and what was trained from it.

    ``ancestors`` and ``descendants`` say how many trainings to go back and forth; unasked, it is all the way
    back and to the children. A node's ``parent`` is the digest of another node, or of what is no revision of
    this policy; its ``distance`` is -1 for the parent and 1 for a child. Of more than 1000 nodes the farthest
    are left out; ``complete`` says whether any was, for this or for a limit. To go on, ask for a node's own.
    """
    return await gateway.registry.get_lineage(
        caller.tenant_id, policy, Digest(revision), ancestors=ancestors, descendants=descendants
    )


@router.get("/diff")
async def get_diff(
    policy: str, revision: str, caller: ReadCaller, gateway: GatewayDep, against: AgainstQuery = None
) -> RevisionDiff:
    """Compare a revision with another one of its policy, or with its parent.

    ``config`` is what of the manifest is otherwise, ``metrics`` the numbers of their training, ``scores`` the
    newest of each suite and metric; ``modules`` has the Frobenius norm of B A in both, and of the change.
    """
    return await gateway.registry.get_diff(caller.tenant_id, policy, Digest(revision), against=against)
