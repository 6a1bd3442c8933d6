"""A service as small as can be, run as a process by test_service.py."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import Request
from fastapi.responses import StreamingResponse

from mint_common import telemetry
from mint_common.client.http import InternalHttp
from mint_common.runtime.edge import create_http
from mint_common.runtime.service import run_process, run_service
from mint_common.settings import HttpSettings, ServiceSettings, TelemetrySettings

log = logging.getLogger("services.small")


async def address(request: Request) -> list[str]:
    assert request.client is not None
    return [str(request.base_url), request.client.host]


async def main(port: int, peer: str, how: str, folder: Path) -> None:
    http = create_http(title="small", service="small", internal_token="secret", ready=lambda: True)
    client = InternalHttp(peer, token="secret") if peer else None

    @http.get("/internal/work")
    async def work() -> dict[str, object]:
        log.info("working")
        return {"below": await client.get("/internal/work") if client else None}

    http.add_api_route("/address", address)

    @http.get("/slow")
    async def slow() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first\n"
            while not (folder / "finish").exists():
                await asyncio.sleep(0.02)
            yield b"last\n"

        return StreamingResponse(parts())

    @http.get("/endless")
    async def endless() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"x\n"
                await asyncio.sleep(0.05)

        return StreamingResponse(parts())

    async def background() -> None:
        try:
            if how == "crash":
                await asyncio.sleep(0.3)
                raise RuntimeError("the background task crashed")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)
            (folder / "cleaned").write_text("yes")

    times = HttpSettings(
        accept_seconds=30 if how == "accepting" else 0,
        drain_seconds=2 if how == "impatient" else 30,
    )
    settings = ServiceSettings.model_construct(http=times, http_host="127.0.0.1", http_port=port)
    await run_service(http, settings, [background])


if __name__ == "__main__":
    port, otlp, peer, how, name, folder = sys.argv[1:]
    telemetry.setup(TelemetrySettings(otlp_endpoint=otlp), service=name)
    sys.exit(run_process(lambda: main(int(port), peer, how, Path(folder))))
