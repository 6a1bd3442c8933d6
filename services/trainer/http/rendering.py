"""Internal HTTP: rows as token ids, in msgpack."""

from fastapi import FastAPI, Request, Response

from mint_common.datasets import RenderRequest
from services.trainer.adapters.rendering.rendering import BaseRendering
from services.trainer.http.packed import packed, read_packed


def add_routes(http: FastAPI, rendering: BaseRendering) -> None:
    """Add the route to the trainer's HTTP application."""

    @http.post("/internal/render")
    async def render(request: Request) -> Response:
        """Answer with each row's rendering."""
        return packed(await rendering.render(read_packed(await request.body(), RenderRequest)))
