"""One tenant's flood, within its limits, leaves the others their part of an engine.

The engine itself: tests/integration/loader/test_fair_scheduler.py; samples in the gateway:
tests/unit/gateway/tinker/test_samples.py.
"""

from contextlib import ExitStack, suppress

import pytest

from mint_common.errors import InvalidField, Overloaded
from mint_common.fair_queue import FairQueue
from mint_common.inference.sizes import check_answer_bytes, entries_of, json_bytes
from mint_common.tenant_budget import TenantBudget
from services.gateway.app import TENANT_PROMPTS
from services.gateway.core.tinker.sample_queue import SampleQueue
from services.gateway.settings import GatewaySettings
from services.loader.core.open_work import TENANT_SEQUENCES, TENANT_TOKENS, OpenWork
from services.loader.settings import LoaderSettings

FLOOD, COMPLETIONS, TOKENS = 160, 128, 200
FEW, MANY = "few", "many"


def default_of(settings: type, name: str) -> int:
    return settings.model_fields[name].default


def test_a_flood_of_samples_is_not_with_the_engine_as_a_whole() -> None:
    queue = SampleQueue(512)
    for at in range(FLOOD):
        queue.push(MANY, f"key{at}", f"s{at}", 1 + COMPLETIONS)
    begun = len(list(iter(queue.pop, None)))
    assert begun * COMPLETIONS <= 512, "160 samples of 128 were asked of the engine at once: 20,480 sequences"
    queue.push(FEW, "key", "other", 2)
    assert queue.pop() == "other"


def test_a_flood_of_requests_leaves_the_loader_open() -> None:
    work = OpenWork(
        max_requests=default_of(LoaderSettings, "max_requests"),
        max_sequences=TENANT_SEQUENCES,
        max_tokens=TENANT_TOKENS,
    )
    with ExitStack() as stack:
        with suppress(Overloaded):
            while True:
                stack.enter_context(work.request(MANY))
        with work.request(FEW), work.work(FEW, sequences=1, tokens=10):
            pass


def test_who_floods_with_completions_or_tokens_is_told_to_slow_down() -> None:
    work = OpenWork(
        max_requests=512,
        max_sequences=TENANT_SEQUENCES,
        max_tokens=TENANT_TOKENS,
    )
    refusals = []
    with ExitStack() as stack:
        for _ in range(FLOOD):
            try:
                tokens = COMPLETIONS * (TOKENS + 20)
                stack.enter_context(work.work(MANY, sequences=COMPLETIONS, tokens=tokens))
            except Overloaded as error:
                refusals.append(error)
    assert len(refusals) == FLOOD - 64
    assert {error.http_status for error in refusals} == {429}


def test_whoever_comes_behind_a_flood_starts_in_the_next_step() -> None:
    queue: FairQueue[str] = FairQueue(seats=64, reserve=8)
    for at in range(FLOOD * COMPLETIONS):
        queue.push(MANY, f"m{at}")
    while (found := queue.next()) is not None:
        queue.start(found[0])
    assert queue.running(MANY) == 64
    queue.push(FEW, "one token")
    assert queue.next() == (FEW, "one token")


def test_the_largest_answer_of_before_is_refused() -> None:
    size = json_bytes(tokens=COMPLETIONS * TOKENS, entries=entries_of(20))
    most = default_of(GatewaySettings, "max_answer_bytes")
    with pytest.raises(InvalidField, match="lower top_logprobs"):
        check_answer_bytes(size, most, lower=("top_logprobs", "max_tokens", "n"))


def test_requests_of_many_prompts_are_refused_as_a_whole_before_an_engine_is_asked() -> None:
    bounds = TenantBudget(what="your tenant's prompts", limit=TENANT_PROMPTS)
    with ExitStack() as stack:
        for _ in range(TENANT_PROMPTS // 32):
            stack.enter_context(bounds.counted(MANY, 32))
        with pytest.raises(Overloaded, match="your tenant's prompts"), bounds.counted(MANY, 32):
            pass
        with bounds.counted(FEW, 32):
            pass
    with bounds.counted(MANY, 32):
        pass
