"""Internal HTTP: the base with a revision merged into it, as a tar."""

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mint_common.runtime.disconnect import cancelled_on_disconnect
from mint_common.runtime.slow_clients import MinRate, read_in_time
from mint_common.training import MergeRequest
from services.trainer.adapters.merging import MergingProcesses, ProcessTar
from services.trainer.http.packed import read_packed

READER_RATE = MinRate(bytes_per_second=1 << 20, grace_seconds=60, stall_seconds=60)
"""A reader below it gives its turn to others; it can continue where it was."""


def add_routes(http: FastAPI, merging: MergingProcesses, rate: MinRate = READER_RATE) -> None:
    """Add the route to the trainer's HTTP application. Readers below the rate are disconnected."""

    @http.post("/internal/merged")
    async def merged(request: Request) -> Response:
        """Answer the tar from a byte on; it ends with its reader, and when the trainer is stopped."""
        request.app.state.in_hand.end_when_draining()
        asked = read_packed(await request.body(), MergeRequest)
        async with cancelled_on_disconnect(request):
            tar = await merging.open(asked.tenant_id, asked.manifest, begin=asked.begin)
            return _Answer(tar, rate)


class _Answer(StreamingResponse):
    def __init__(self, tar: ProcessTar, rate: MinRate) -> None:
        headers = {"content-length": str(tar.size_bytes)}
        super().__init__(tar.parts(), headers=headers, media_type="application/x-tar")
        self._tar = tar
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, read_in_time(send, self._rate))
        finally:
            await self._tar.close()
