"""Structures of answers are compiled within bounds before the engine gets them."""

import asyncio
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mint_common.errors import RequestRefused, Unavailable
from services.loader.adapters.vllm.compile_checks import CompileChecks
from tests.integration.loader.slow_structures import MANY_PROPERTIES
from tests.processes import gives_way

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

TINY = Path(__file__).parents[3] / "bases" / "tiny"
STRUCTURES: list[dict[str, Any]] = [
    {"json": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}}},
    {"json_object": True},
    {"regex": "[a-z]{3}"},
    {"choice": ["yes", 'a "quoted" no']},
    {"grammar": 'root ::= "a" | "b"'},
    {"grammar": 'start: "a" | "b"'},
    {"structural_tag": '{"type": "structural_tag", "format": {"type": "const_string", "value": "a"}}'},
]
Make = Callable[..., CompileChecks]


def structure(**given: Any) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(**given)


def _pid(checks: CompileChecks) -> int:
    process = checks._server._process
    assert process is not None
    return process.pid


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """Import vLLM, whose libraries warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import vllm.sampling_params
        import vllm.v1.structured_output.request  # noqa: F401


@pytest.fixture(scope="module")
def make() -> Iterator[Make]:
    """Make checks that end with the module."""
    made: list[CompileChecks] = []

    def _make(*, seconds: int = 5, **options: Any) -> CompileChecks:
        made.append(CompileChecks(tokenizer=str(TINY), vocab_size=259, seconds=seconds, **options))
        return made[-1]

    yield _make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def checks(make: Make) -> CompileChecks:
    return make(seconds=1)


@pytest.mark.parametrize("given", STRUCTURES, ids=lambda given: next(iter(given)))
async def test_what_compiles_is_checked_once_for_each_tenant(
    checks: CompileChecks, given: dict[str, Any]
) -> None:
    before = len(checks._passed)
    for tenant, known in (("a", 1), ("a", 1), ("b", 2)):
        await checks.check(structure(**given), tenant=tenant)
        assert len(checks._passed) == before + known


async def test_what_takes_too_long_is_refused_and_says_what_to_do(checks: CompileChecks) -> None:
    before = len(checks._passed)
    with pytest.raises(RequestRefused, match=r"1 s of a processor .* make the schema, .* smaller") as refused:
        await checks.check(structure(json=MANY_PROPERTIES), tenant="a")
    assert refused.value.field == "structured_outputs"
    assert len(checks._passed) == before


async def test_what_takes_too_much_memory_is_refused(make: Make) -> None:
    checks = make(seconds=60, memory_bytes=64 << 20)
    with pytest.raises(RequestRefused, match="64 MiB"):
        await checks.check(structure(json=MANY_PROPERTIES), tenant="a")
    await checks.check(structure(regex="a"), tenant="a")


@pytest.mark.parametrize("given", [{"regex": "(a"}, {"grammar": "root ::= x"}, {"json_object": False}])
async def test_what_is_wrong_is_left_to_vllm_to_refuse(checks: CompileChecks, given: dict[str, Any]) -> None:
    before = len(checks._passed)
    await checks.check(structure(**given), tenant="a")
    assert len(checks._passed) == before


async def test_what_is_remembered_is_bounded_by_the_time_that_it_took(make: Make) -> None:
    checks = make(remembered_seconds=0.05)
    for number in range(8):
        await checks.check(structure(regex=f"a{number}"), tenant="a")
    assert len(checks._passed) <= 5


async def test_a_tenant_waits_for_the_check_that_runs_and_one_more_of_a_flood(checks: CompileChecks) -> None:
    done: list[str] = []

    async def ask(tenant: str, name: str, **given: Any) -> None:
        try:
            await checks.check(structure(**given), tenant=tenant)
        except RequestRefused:
            done.append(f"{name} refused")
        else:
            done.append(name)

    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(ask("flood", str(number), json={**MANY_PROPERTIES, "title": str(number)}))
        await asyncio.sleep(0)
        tasks.create_task(ask("other", "small", regex="[0-9]"))
    assert done.index("small") <= 2, done
    assert len(done) == 5


async def test_who_leaves_lets_others_be_checked(checks: CompileChecks) -> None:
    slow = asyncio.create_task(checks.check(structure(json={**MANY_PROPERTIES, "title": "left"}), tenant="a"))
    waiting = asyncio.create_task(checks.check(structure(regex="left"), tenant="a"))
    await asyncio.sleep(0.1)
    slow.cancel()
    waiting.cancel()
    await asyncio.wait({slow, waiting})
    assert slow.cancelled()
    assert waiting.cancelled()
    await checks.check(structure(regex="stayed"), tenant="a")


async def test_a_check_gives_way_to_the_engine(checks: CompileChecks) -> None:
    await checks.check(structure(regex="way"), tenant="a")
    assert gives_way(_pid(checks))


async def test_a_lost_process_is_replaced_and_a_closed_one_is_not(make: Make) -> None:
    checks = make()
    assert checks._server._process is None, "nothing runs before there is something to check"
    pids = []
    for regex in ("a", "b"):
        await checks.check(structure(regex=regex), tenant="a")
        pids.append(_pid(checks))
        if regex == "a":
            os.kill(pids[-1], signal.SIGKILL)
    assert len(set(pids)) == 2
    checks.close()
    assert not Path(f"/proc/{pids[-1]}").exists()
    with pytest.raises(Unavailable):
        checks._server.compile(b"[]")


async def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    checks = CompileChecks(tokenizer=str(tmp_path), vocab_size=259, seconds=1)
    with pytest.raises(Unavailable, match="Error"):
        await checks.check(structure(regex="a"), tenant="a")
    checks.close()
