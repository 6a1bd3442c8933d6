"""Tenants that share a real engine: who comes new starts at once, whoever fills its seats or its memory."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from mint_common.adapters_format import BaseFacts
from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from services.loader.adapters.builder.client import Builder
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.adapters.vllm.starting import EngineConfig
from services.loader.core.execution import Execution
from services.loader.handlers.generation import warm_up
from tests.integration.loader.conftest import BASE_DIR, builder_config, quietly, started
from tests.testing.second_runner import is_second_runner

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

planned_when_done = pytest.mark.skipif(
    is_second_runner(), reason="steps that are planned ahead are shared by all: ADR 18, docs/operate/gpu.md"
)
SLOWER = 5 if is_second_runner() else 1
"""A step takes 0.2 s by Triton's interpreter."""
SEATS = 8
KV_BYTES = 2 << 20
"""Room for four of the flood's sequences: who comes new finds no memory free."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(facts: BaseFacts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    """Start an engine that one request fills; its builder, which nothing is asked of, does not run."""
    tmp_path = tmp_path_factory.mktemp("unused")
    config = EngineConfig(
        base_dir=BASE_DIR,
        facts=facts,
        max_context=facts.max_context,
        slots=1,
        host_capacity=1,
        max_sequences=SEATS,
        max_logprobs=20,
        threads=1,
        compile_seconds=5,
        execution=Execution(kv_cache_bytes=KV_BYTES),
    )
    builder = Builder(builder_config(BASE_DIR, tmp_path), SystemClock())
    async with quietly(started(config, builder)) as engine:
        await warm_up(engine)
        yield engine


async def generate(
    engine: VllmEngine,
    name: str,
    *,
    tenant: str,
    prompt: int = 3,
    n: int = 1,
    new: int = 1,
    pattern: str | None = None,
    is_background: bool = False,
    on_step: Callable[[int], None] = lambda tokens: None,
) -> int:
    """Return how many tokens came."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    params = SamplingParams(
        max_tokens=new,
        temperature=1.0,
        n=n,
        ignore_eos=True,
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=StructuredOutputsParams(regex=pattern) if pattern else None,
    )
    tokens = [7 + at % 90 for at in range(prompt)]
    came = 0
    prompt_input = tokens_input(tokens, cache_salt=tenant)
    async for output in engine._llm.generate(prompt_input, params, name, priority=int(is_background)):
        step = sum(len(each.token_ids) for each in output.outputs)
        on_step(step)
        came += step
    return came


@asynccontextmanager
async def flood(
    engine: VllmEngine, *, requests: int, new: int, is_background: bool = False
) -> AsyncIterator[list[asyncio.Task[int]]]:
    """Fill the engine for one tenant until each sequence has had half of its tokens."""
    steps = 0
    is_deep = asyncio.Event()

    def count(tokens: int) -> None:
        nonlocal steps
        steps += 1
        if steps >= new // 2:
            is_deep.set()

    tasks = [
        asyncio.create_task(
            generate(
                engine,
                f"flood-{number}",
                tenant="many",
                n=4 * SEATS,
                new=new,
                is_background=is_background,
                on_step=count,
            )
        )
        for number in range(requests)
    ]
    try:
        async with asyncio.timeout(60 * SLOWER):
            await is_deep.wait()
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class Steps:
    """The outputs of the engine's steps: which requests each had, and how long it took."""

    of: dict[float, set[str]] = field(default_factory=dict)

    def seconds(self, name: str) -> tuple[float, float]:
        """Return the time from a request's first output to its last, and that of steps without it."""
        times = sorted(self.of)
        own = [at for at, one in enumerate(times) if name in self.of[one]]
        span = range(own[0] + 1, own[-1] + 1)
        taken = [(times[at] - times[at - 1], name in self.of[times[at]]) for at in span]
        return sum(each for each, _ in taken), sum(each for each, is_own in taken if not is_own)


@pytest.fixture
def steps(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Note every step's outputs."""
    noted = Steps()
    processor = engine._llm.output_processor
    process = processor.process_outputs

    def noting(outputs: Any, timestamp: float, *rest: Any, **options: Any) -> Any:
        noted.of.setdefault(timestamp, set()).update(_number_of(each.request_id) for each in outputs)
        return process(outputs, timestamp, *rest, **options)

    monkeypatch.setattr(processor, "process_outputs", noting)
    return noted


async def test_a_newcomer_is_answered_while_the_flood_goes_on(engine: VllmEngine) -> None:
    async with flood(engine, requests=2, new=60) as tasks, asyncio.timeout(60 * SLOWER):
        for number in range(5):
            assert await generate(engine, f"new-{number}", tenant="few") == 1
        assert not any(task.done() for task in tasks)


@planned_when_done
async def test_each_newcomer_has_a_step_of_its_own(engine: VllmEngine, steps: Steps) -> None:
    async with flood(engine, requests=2, new=100) as tasks, asyncio.timeout(60 * SLOWER):
        for number in range(4):
            await generate(engine, f"own-{number}", tenant="few")
            before = len(steps.of)
            while len(steps.of) < before + 3:
                await asyncio.sleep(0.001)
        assert not any(task.done() for task in tasks)
    own = [who for who in steps.of.values() if any(name.startswith("own") for name in who)]
    assert own == [{f"own-{number}"} for number in range(4)]


@planned_when_done
@pytest.mark.parametrize("tenant", ["many", "few"])
async def test_a_chat_beside_rollouts_has_the_engines_time_but_for_a_share(
    engine: VllmEngine, steps: Steps, tenant: str
) -> None:
    """Rollouts fill the seats and the memory, of the chat's own tenant or another's."""
    name = f"own-{tenant == 'many':d}"
    async with flood(engine, requests=2, new=100, is_background=True) as tasks, asyncio.timeout(60 * SLOWER):
        assert await generate(engine, name, tenant=tenant, prompt=20, new=200) == 200
        assert not any(task.done() for task in tasks)
        seconds, others = steps.seconds(name)
    assert 0 < others < seconds / 2, "far more than the share: single steps are long on a busy machine"
    assert all(len(each) == 1 for each in steps.of.values() if name in each), "no step has both kinds"


@planned_when_done
async def test_rollouts_go_on_beside_endless_chats_and_lose_no_token(engine: VllmEngine) -> None:
    ended = asyncio.Event()

    async def chat_on(number: int) -> None:
        while not ended.is_set():
            await generate(engine, f"chat-{number}", tenant="few", prompt=40, n=SEATS, new=20)

    chats = [asyncio.create_task(chat_on(number)) for number in range(3)]
    async with asyncio.timeout(120 * SLOWER):
        tokens = await generate(engine, "wave", tenant="few", n=2 * SEATS, new=20, is_background=True)
        assert tokens == 2 * SEATS * 20
        assert not any(chat.done() for chat in chats)
        ended.set()
        await asyncio.gather(*chats)


async def test_steps_are_smaller_while_the_loader_is_behind_and_lose_no_token(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: Counter[float] = Counter()
    processor = engine._llm.output_processor
    process = processor.process_outputs

    def late(outputs: Any, timestamp: float, *rest: Any, **options: Any) -> Any:
        steps[timestamp] += len(outputs)
        until = time.perf_counter() + 0.01 * SLOWER * len(outputs)
        while time.perf_counter() < until:
            pass
        return process(outputs, timestamp, *rest, **options)

    async with asyncio.timeout(120 * SLOWER):
        assert await generate(engine, "about", tenant="few") == 1
        monkeypatch.setattr(processor, "process_outputs", late)
        assert await generate(engine, "late", tenant="many", n=SEATS, new=40) == 40 * SEATS
    assert max(steps.values()) == SEATS
    assert min(steps.values()) < SEATS


async def test_an_ambiguous_pattern_of_many_sequences_holds_no_other_tenant_up(engine: VllmEngine) -> None:
    """Each sequence had 0.1 s of the engine's steps for itself, and no token of it was charged."""

    async def seconds_beside(pattern: str | None) -> float:
        took: list[float] = []
        ended = asyncio.Event()

        async def flood_on() -> None:
            number = 0
            while not ended.is_set():
                number += 1
                name = f"{pattern and len(pattern)}-{number}"
                await generate(engine, name, tenant="many", n=8 * SEATS, new=40, pattern=pattern)

        tasks = [asyncio.create_task(flood_on()) for _ in range(2)]
        for number in range(20):
            began = time.perf_counter()
            await generate(engine, f"beside-{pattern is None}-{number}", tenant="few", new=16)
            took.append(time.perf_counter() - began)
        ended.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return sorted(took)[-2]

    async with asyncio.timeout(120 * SLOWER):
        assert await generate(engine, "first", tenant="few", pattern="a*") == 1
        control = await seconds_beside(None)
        assert await seconds_beside("(" * 60 + "a" + "+)" * 60) < 3 * control + 0.2


def _number_of(request_id: str) -> str:
    """Return the name of a request, whose id begins with a choice's number if it has several."""
    found = re.search(r"(?:flood|own)-\d+", request_id)
    return found[0] if found else request_id


async def test_a_newcomer_gets_memory_from_who_holds_more_than_a_share(engine: VllmEngine) -> None:
    async with flood(engine, requests=1, new=240) as tasks, asyncio.timeout(60 * SLOWER):
        assert await generate(engine, "long", tenant="few", prompt=200, new=20) == 20
        assert not any(task.done() for task in tasks)


async def test_a_rollout_that_finds_no_memory_holds_up_no_chat(engine: VllmEngine, steps: Steps) -> None:
    """Chats hold the whole cache; the rollout waits for them and then runs."""
    async with flood(engine, requests=1, new=240) as tasks, asyncio.timeout(120 * SLOWER):
        rollout = asyncio.create_task(
            generate(engine, "rollout", tenant="few", prompt=200, new=5, is_background=True)
        )
        before = len(steps.of)
        while len(steps.of) < before + 200:
            await asyncio.sleep(0.01)
        assert not any(task.done() for task in tasks)
        tasks[0].cancel()
        assert await rollout == 5


async def test_who_made_room_loses_no_token(engine: VllmEngine) -> None:
    async with flood(engine, requests=1, new=120) as tasks, asyncio.timeout(120 * SLOWER):
        for number in range(3):
            await generate(engine, f"again-{number}", tenant="few", prompt=150, new=5)
        assert await tasks[0] == 4 * SEATS * 120


async def test_two_who_flood_are_served_alike(engine: VllmEngine) -> None:
    tokens = {"left": 0, "right": 0}

    async def go_on(tenant: str, name: str, *, n: int, new: int) -> None:
        def count(came: int) -> None:
            tokens[tenant] += came

        while True:
            await generate(engine, name, tenant=tenant, n=n, new=new, on_step=count)

    tasks = [
        *(asyncio.create_task(go_on("left", f"left-{at}", n=16, new=20)) for at in range(6)),
        *(asyncio.create_task(go_on("right", f"right-{at}", n=2, new=20)) for at in range(6)),
    ]
    async with asyncio.timeout(120 * SLOWER):
        while sum(tokens.values()) < 2500:
            await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert tokens["right"] >= 0.7 * tokens["left"]


async def test_a_text_is_tokenized_after_two_of_a_flood_of_long_ones(engine: VllmEngine) -> None:
    done: list[str] = []

    async def tokenize(tenant: str, text: str) -> None:
        await engine.tokenize(text, tenant_id=TenantId(tenant))
        done.append(tenant)

    async with asyncio.timeout(60 * SLOWER):
        async with asyncio.TaskGroup() as flood_of_texts:
            for _ in range(50):
                flood_of_texts.create_task(tokenize("many", "a long text " * 2000))
            while len(done) < 3:
                await asyncio.sleep(0)
            before = len(done)
            await tokenize("few", "hi")
            assert done.index("few") <= before + 2, "the one that is being done, and one more"


async def test_a_request_is_started_after_two_of_a_flood(engine: VllmEngine) -> None:
    states = engine._llm.output_processor.request_states
    tasks = [asyncio.create_task(generate(engine, f"flood-{at}", tenant="many", new=100)) for at in range(40)]
    try:
        async with asyncio.timeout(60 * SLOWER):
            while len(states) < 3:
                await asyncio.sleep(0)
            before = len(states)
            tasks.append(asyncio.create_task(generate(engine, "new", tenant="few")))
            while not any(name.startswith("new") for name in states):
                await asyncio.sleep(0)
            assert len(states) <= before + 3, "the one that is being started, one more, and the new one"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
