"""Times an import of ten thousand adapters from a folder into a whole stack: `mint policy import --all`.

The stack is real and its engine runs; the adapters are of rank 8 over all linear modules of the base tiny, as
PEFT saves them: 196 kB each.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benches.bases import TINY
from benches.report import Report, Row, make_row
from benches.stacks import BenchStack, open_bench_stack
from mint_common.adapters_format import CONFIG_FILE, WEIGHTS_FILE, BaseFacts, peft_name, read_base_facts
from mint_common.adapters_format.tensor_file import write_tensors

RANK = 8
GOAL = 10_000 / 300
"""Ten thousand in five minutes."""


def run(adapters: int = 10_000) -> Report:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="mint-bench-imports-") as folder:
        root = Path(folder)
        make_adapters(read_base_facts(TINY), root / "adapters", adapters)
        seconds = asyncio.run(measure(root, adapters))
    return Report(bench="imports", rows=[row(adapters, seconds)], draw=lambda _figure: None)


def make_adapters(facts: BaseFacts, folder: Path, adapters: int) -> None:
    """Save different adapters as PEFT does."""
    rng = np.random.default_rng(0)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "base_model_name_or_path": "tiny"}
    for number in range(adapters):
        tensors = {}
        for module, (width, height) in facts.modules.items():
            tensors[peft_name(module, "A")] = rng.standard_normal((RANK, width), dtype=np.float32) * 0.02
            tensors[peft_name(module, "B")] = rng.standard_normal((height, RANK), dtype=np.float32) * 0.02
        place = folder / f"user-{number:05}"
        place.mkdir(parents=True)
        (place / WEIGHTS_FILE).write_bytes(write_tensors(tensors))
        (place / CONFIG_FILE).write_text(json.dumps(config))


async def measure(root: Path, adapters: int) -> float:
    """Return the seconds of the command."""
    async with open_bench_stack() as stack:
        return await asyncio.to_thread(import_all, stack, root, adapters)


def import_all(stack: BenchStack, root: Path, adapters: int) -> float:
    """Run the command as a user does."""
    environ = {**os.environ, "MINT_URL": stack.gateway_url, "MINT_API_KEY": stack.api_key}
    command = (sys.executable, "-m", "mint_launcher", "policy", "import", "--all", "adapters", "--json")
    began = time.monotonic()
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - began
    assert json.loads(done.stdout)["imported"] == adapters
    return seconds


def row(adapters: int, seconds: float) -> Row:
    """Return the row."""
    return make_row(
        "imported_per_second",
        [adapters / seconds],
        unit="1/s",
        goal=GOAL,
        better="higher",
        how=f"{adapters} adapters in {seconds:.0f} s, eight at a time, with the whole stack on the machine",
    )
