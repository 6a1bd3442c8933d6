"""``/mint/v1/files``: what MinT knows of a file, and how its rows are trained."""

from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar

import msgspec
from fastapi import APIRouter, Response
from pydantic import Field

from mint_common.datasets import Format, Method, RenderRequest, method_of
from mint_common.errors import NotFound
from mint_common.ids import BaseName
from mint_common.json_types import JsonObject
from services.gateway.core.examples import body_config
from services.gateway.core.files.previews import (
    MAX_ROWS,
    MAX_TOKENS,
    Preview,
    check_is_rows,
    preview,
)
from services.gateway.core.files.records import IdPrefix, check_id
from services.gateway.core.fine_tuning.file_uses import FileUse
from services.gateway.http.edge.context import GatewayDep, ReadCaller, TrainCaller
from services.gateway.http.edge.routes import GatewayRoute

router = APIRouter(prefix="/mint/v1/files", tags=["files"], route_class=GatewayRoute)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileView:
    """A file. ``format``, ``rows`` and ``repeats`` are of rows: those equal to an earlier one are repeats.

    ``used_by`` has the jobs that read it, and the revisions that were trained on it.
    """

    file_id: str
    filename: str
    purpose: str
    sha256: str
    size_bytes: int
    created_at: float
    expires_at: float | None
    format: Format | None
    rows: int | None
    repeats: int | None
    used_by: FileUse


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewBody:
    """Which rows, and how they would be trained; without a method by that of the file's format.

    With a ``validation_file`` its rows that the file has too are told.
    """

    __pydantic_config__: ClassVar[JsonObject] = body_config({"base": "smollm2", "n": 3})

    base: Annotated[str, Field(max_length=100)]
    method: Method | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 3
    first_line: Annotated[int, Field(ge=1, le=1 << 40)] = 1
    max_tokens: Annotated[int | None, Field(ge=1, le=1 << 40)] = None
    validation_file: Annotated[str | None, Field(max_length=200)] = None


@router.get("/{file}")
async def get_file_view(file: str, caller: ReadCaller, gateway: GatewayDep) -> FileView:
    """Return what is known of a file."""
    found = await gateway.files.keeper.get(caller.tenant_id, check_id(IdPrefix.FILE, file))
    told = asdict(found)
    del told["tenant_id"]
    return FileView(**told, used_by=await gateway.fine_tuning.uses.of(caller.tenant_id, found.file_id))


@router.post("/{file}/preview", response_model=Preview)
async def preview_file(file: str, body: PreviewBody, caller: TrainCaller, gateway: GatewayDep) -> Response:
    """Return rows as a base's trainer would train them: tokens, and which of them are trained.

    Begins at ``first_line``. Needs a trainer of the base.
    """
    keeper = gateway.files.keeper
    found = await keeper.get(caller.tenant_id, check_id(IdPrefix.FILE, file))
    check_is_rows(found)
    base = BaseName(body.base)
    if base not in {each.name for each in await gateway.registry.list_bases()}:
        raise NotFound(kind="base", name=body.base)
    validation = None
    if body.validation_file is not None:
        validation = await keeper.get(caller.tenant_id, check_id(IdPrefix.FILE, body.validation_file))
        check_is_rows(validation, field="validation_file")
    method = body.method or method_of(found.format or Format.CHAT)
    with gateway.files.previewing.counted(caller.tenant_id):
        request = RenderRequest(
            rows=tuple(await keeper.read_rows(found, first_line=body.first_line, count=body.n)),
            method=method,
            max_tokens=body.max_tokens,
            most_tokens=MAX_TOKENS,
            with_texts=True,
        )
        trainer = await gateway.tinker.trainers.find(base)
        rendered = await trainer.render(request)
        shared = None if validation is None else await keeper.shared_rows(found, validation)
        shown = preview(base, method, rendered, shared=shared)
    return Response(msgspec.json.encode(shown), media_type="application/json")
