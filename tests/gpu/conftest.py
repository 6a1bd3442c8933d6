"""What the tests for a GPU run on: CUDA, or with `--device cpu` the CPU, to see that they are right."""
# ruff: noqa: F811  # fixtures of the loader's tests are used by their names

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from mint_common.adapters_format import BaseFacts
from mint_common.runtime.clock import SystemClock
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.app import open_engine
from services.loader.settings import LoaderSettings
from tests.integration.loader.conftest import BASE_DIR, compiled, engine_settings, facts, quietly  # noqa: F401
from tests.integration.loader.moe_base import SLOTS

SHARES = {"MINT_TRAINER_MEMORY_SHARE": "0.4", "MINT_LOADER_GPU_MEMORY_UTILIZATION": "0.4"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the device be chosen."""
    parser.addoption("--device", choices=("cpu", "cuda"), default="cuda", help="of tests/gpu")


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """Return the device; without it the test is skipped."""
    chosen = str(pytestconfig.getoption("--device", default="cuda"))
    if chosen == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no GPU here (--device cpu runs most of this on the CPU)")
    return torch.device(chosen, 0) if chosen == "cuda" else torch.device("cpu")


@pytest.fixture(scope="session")
def narrow_settings(
    device: torch.device, engine_settings: LoaderSettings, tmp_path_factory: pytest.TempPathFactory
) -> LoaderSettings:
    """Return the settings of an engine in bfloat16 with as many slots as `Served` fills."""
    changes = {
        "dtype": "bfloat16",
        "slots": SLOTS,
        "host_capacity": SLOTS,
        "cache_dir": tmp_path_factory.mktemp("cache"),
        "gpu_memory_utilization": 0.4 if device.type == "cuda" else None,
        "host_bytes": 64 << 20,
    }
    return LoaderSettings.model_validate(engine_settings.model_dump() | changes)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(
    narrow_settings: LoaderSettings, facts: BaseFacts, compiled: Path
) -> AsyncIterator[VllmEngine]:
    """Run an engine over the tiny base: on CUDA with graphs, and adapters in registered memory."""
    async with quietly(open_engine(narrow_settings, facts, SystemClock())) as (engine, _):
        yield engine


@pytest.fixture(scope="session")
def base_dir() -> Path:
    """Return the tiny base."""
    return BASE_DIR
