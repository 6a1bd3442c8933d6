"""Graders as a service's settings want them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mint_common.errors import SettingInvalid
from mint_common.runtime.graders.judge import Judge
from mint_common.runtime.graders.monty import MontySandbox
from mint_common.runtime.graders.process import ProcessSandbox, SandboxUnavailable
from mint_common.runtime.graders.python import PythonSandbox
from mint_common.runtime.graders.runner import GraderRunner
from mint_common.settings import GraderSettings


@asynccontextmanager
async def open_graders(
    settings: GraderSettings, judge: Judge, *, service: str
) -> AsyncIterator[GraderRunner]:
    """Run graders within the block. Raises SettingInvalid when processes cannot be confined here."""
    sandbox = await asyncio.to_thread(_sandbox, settings, service)
    runner = GraderRunner(judge=judge, sandbox=sandbox, workers=settings.grader_workers)
    try:
        yield runner
    finally:
        await asyncio.to_thread(runner.close)


def _sandbox(settings: GraderSettings, service: str) -> PythonSandbox | None:
    if settings.graders == "off":
        return None
    workers, seconds = settings.grader_workers, settings.grader_seconds
    memory_bytes = settings.grader_memory_bytes
    if settings.graders == "monty":
        return MontySandbox(workers=workers, seconds=seconds, memory_bytes=memory_bytes)
    sandbox = ProcessSandbox(workers=workers, seconds=seconds, memory_bytes=memory_bytes)
    try:
        sandbox.start()
    except SandboxUnavailable as error:
        sandbox.close()
        problem = f"is process, but the source of graders cannot be confined here. {error}"
        raise SettingInvalid(name=f"MINT_{service.upper()}_GRADERS", problem=problem) from error
    return sandbox
