"""An engine's rank 0, run as a process: it answers with some adapters, then waits for the engine's end."""

import asyncio
import json
import os
import sys
from pathlib import Path

from mint_common.adapters_format import read_base_facts
from mint_common.runtime.clock import SystemClock
from mint_common.settings import read_settings
from services.loader.app import open_engine
from services.loader.settings import LoaderSettings
from tests.integration.loader.conftest import quietly
from tests.integration.loader.moe_base import Served

DIED = 3


async def main(answers: Path, *adapters: Path) -> int:
    """Write the answers of the bare base and of each adapter."""
    settings = read_settings(LoaderSettings, os.environ, service="loader")
    facts = read_base_facts(settings.base_dir)
    async with quietly(open_engine(settings, facts, SystemClock())) as (engine, _):
        served = Served(engine, settings.base_dir, facts)
        who = [None, *[await served.load(adapter) for adapter in adapters]]
        found = await asyncio.gather(*(served.sample(one) for one in who))
        part = answers.with_suffix(".part")
        part.write_text(json.dumps([[one.prompt, one.tokens, one.logprobs] for one in found]))
        part.rename(answers)
        while not engine.dead:
            await asyncio.sleep(0.05)
    return DIED


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*map(Path, sys.argv[1:]))))
