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

WORKERS = 4
"""Sources that run at the same time; one tenant's use at most all but one."""
MEMORY_BYTES = 64 << 20
"""Memory of a source for one answer. With monty the service takes twice as much while it reads an error."""


@asynccontextmanager
async def open_graders(
    settings: GraderSettings, judge: Judge, *, service: str, workers: int = WORKERS
) -> AsyncIterator[GraderRunner]:
    """Run graders within the block. Raises SettingInvalid when processes cannot be confined here."""
    sandbox = await asyncio.to_thread(_sandbox, settings, service, workers)
    runner = GraderRunner(judge=judge, sandbox=sandbox, workers=workers)
    try:
        yield runner
    finally:
        await asyncio.to_thread(runner.close)


def _sandbox(settings: GraderSettings, service: str, workers: int) -> PythonSandbox | None:
    if settings.graders == "off":
        return None
    seconds = settings.grader_seconds
    if settings.graders == "monty":
        return MontySandbox(workers=workers, seconds=seconds, memory_bytes=MEMORY_BYTES)
    sandbox = ProcessSandbox(workers=workers, seconds=seconds, memory_bytes=MEMORY_BYTES)
    try:
        sandbox.start()
    except SandboxUnavailable as error:
        sandbox.close()
        problem = f"is process, but the source of graders cannot be confined here. {error}"
        raise SettingInvalid(name=f"MINT_{service.upper()}_GRADERS", problem=problem) from error
    return sandbox
