"""Sampler checkpoints as files in PEFT's format: first an address, then the bytes at that address.

Invariant: the routes that send bytes need no key and send only the target of a signed address.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime

from fastapi import APIRouter, Request, Response

from mint_common.claims import Claim
from mint_common.errors import InvalidField, NotFound
from mint_common.ids import Digest
from services.gateway.core.tinker.downloads import VALID_SECONDS, Ticket
from services.gateway.core.tinker.ids import checkpoint_path
from services.gateway.core.tinker.listings import moment
from services.gateway.http.edge.context import CallerDep, ReadCaller
from services.gateway.http.edge.downloads import Download
from services.gateway.http.edge.routes import TinkerRoute
from services.gateway.http.tinker.bodies import answer
from services.gateway.http.tinker.context import Tinker, TinkerDep
from services.gateway.http.tinker.errors import PREFIX

router = APIRouter(route_class=TinkerRoute)
open_router = APIRouter(prefix=f"{PREFIX}/downloads", include_in_schema=False)
"""Routes without a key."""

ARCHIVE = "checkpoint.tar"
_ONE = "/training_runs/{model_id}/checkpoints/{checkpoint_id:path}"


@router.get(f"{_ONE}/archive")
async def archive(
    request: Request, model_id: str, checkpoint_id: str, caller: ReadCaller, tinker: TinkerDep
) -> Response:
    """Redirect to a tar of the checkpoint, for clients before 0.36."""
    ticket = await _ticket(tinker, caller, model_id, checkpoint_id)
    until = format_datetime(datetime.fromtimestamp(ticket.expires_at, UTC), usegmt=True)
    headers = {"location": f"{_address(request, tinker, ticket)}/{ARCHIVE}", "expires": until}
    return Response(status_code=302, headers=headers)


@router.get(f"{_ONE}/external_weights_urls")
async def file_addresses(
    request: Request, model_id: str, checkpoint_id: str, caller: ReadCaller, tinker: TinkerDep
) -> Response:
    """Return the address of each file of the checkpoint."""
    ticket = await _ticket(tinker, caller, model_id, checkpoint_id)
    address = _address(request, tinker, ticket)
    names = await tinker.catalog.revision_files.find(ticket.manifest)
    urls = {name: f"{address}/{name}" for name in names}
    return answer({"urls": urls, "expires": moment(ticket.expires_at)})


@open_router.get("/{ticket}/{name}")
async def download(ticket: str, name: str, tinker: TinkerDep) -> Response:
    """Stream a file, or a tar of all files, to any client with its address."""
    found = tinker.signer.read(ticket, now=tinker.clock.now())
    files: Mapping[str, Claim] = await tinker.catalog.revision_files.find(found.manifest)
    counted = tinker.catalog.downloads.counted(found.tenant_id)
    if name == ARCHIVE:
        content = tinker.catalog.revision_files.read_tar(files)
        return Download(content, counted=counted, media_type="application/x-tar")
    if name not in files:
        raise NotFound(kind="file", name=name[:100])
    size = {"content-length": str(files[name].size_bytes)}
    return Download(tinker.catalog.revision_files.read(files[name]), counted=counted, headers=size)


async def _ticket(tinker: Tinker, caller: CallerDep, model_id: str, checkpoint_id: str) -> Ticket:
    path = checkpoint_path(model_id, checkpoint_id)
    _, record = await tinker.checkpoints.find(path, caller.tenant_id)
    if record.revision is None:
        problem = "is a training checkpoint; only checkpoints of save_weights_for_sampler can be downloaded"
        raise InvalidField(field="checkpoint_id", problem=problem)
    revision = await tinker.catalog.registry.get_revision(
        record.tenant_id, record.policy_id, Digest(record.revision)
    )
    until = tinker.clock.now() + VALID_SECONDS
    return Ticket(manifest=revision.manifest, tenant_id=caller.tenant_id, expires_at=until)


def _address(request: Request, tinker: Tinker, ticket: Ticket) -> str:
    origin = tinker.public_url or str(request.base_url)
    return f"{origin.rstrip('/')}{PREFIX}/downloads/{tinker.signer.sign(ticket)}"
