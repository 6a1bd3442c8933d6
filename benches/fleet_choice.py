"""Times the choice of an engine in a fleet of a thousand, and measures what a router remembers of it."""

import random
import time
import tracemalloc
from collections.abc import Iterator, Sequence

from benches.report import Row, make_row, percentile
from mint_common.claims import Claim, RevisionRef
from mint_common.client.choice import EngineChoice, RoutedRequest
from mint_common.client.serving import ServingEngines
from mint_common.generation import EngineInfo, SampleRequest, Sampling
from mint_common.ids import BaseName, Digest, EngineId, TenantId
from mint_common.runtime.service import settle_memory
from tests.sim.fleet.traffic import Zipf, name_digest

ENGINES, ADAPTERS, PER_ENGINE = 1000, 1_000_000, 2048
CHOICES, OPEN_REQUESTS, TENANTS = 20_000, 4000, 100
PROMPTS, PROMPT_TOKENS = 256, 1024
BASE = BaseName("simulated")


def measure() -> Sequence[Row]:
    """Return the rows: time of a choice, and the memory of what the router knows."""
    rng = random.Random(1)
    zipf = Zipf(ADAPTERS, 1.0, rng)
    tracemalloc.start()
    choice, engines = _fleet(zipf)
    remembered = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    times = _choices(zipf, rng, choice, engines)
    return [
        make_row(
            "choice_p99_us",
            times,
            value=percentile(times, 0.99),
            unit="us",
            goal=50.0,
            better="lower",
            how=f"CPU time of the choice, of {ENGINES:,} engines that hold {PER_ENGINE:,} adapters each of"
            f" {ADAPTERS:,}, Zipf 1.0, with {OPEN_REQUESTS:,} requests open; half of the prompts are known",
        ),
        make_row(
            "router_state_mb",
            [remembered / 1e6],
            unit="MB",
            goal=2000.0,
            better="lower",
            how="what the router remembers of those engines and adapters",
        ),
    ]


def _info(number: int) -> EngineInfo:
    return EngineInfo(
        engine_id=EngineId(f"engine-{number}"),
        epoch=f"epoch-{number}",
        base=BASE,
        base_digest=Digest(f"sha256:{0:064x}"),
        max_context=4096,
        vocab_size=1024,
        eos_token_id=0,
        slots=64,
        host_capacity=PER_ENGINE,
        dtype="bfloat16",
    )


def _fleet(zipf: Zipf) -> tuple[EngineChoice, ServingEngines]:
    infos = {f"http://10.0.{number >> 8}.{number & 255}:8104": _info(number) for number in range(ENGINES)}
    choice, engines = EngineChoice(), ServingEngines(infos)
    for info in infos.values():
        held = {name_digest(zipf.draw()) for _ in range(PER_ENGINE)}
        choice.residency.correct(info.engine_id, info.epoch, ((each, "host") for each in held))
    return choice, engines


def _sample(digest: Digest, tenant: str, tokens: Sequence[int]) -> SampleRequest:
    return SampleRequest(
        request_id="r",
        tenant_id=TenantId(tenant),
        revision=RevisionRef(digest=digest, number=1, manifest=Claim(uri="u", sha256="", size_bytes=1)),
        tokens=tuple(tokens),
        sampling=Sampling(max_new_tokens=64, temperature=1.0),
    )


def _samples(zipf: Zipf, rng: random.Random) -> Iterator[SampleRequest]:
    prompts = [[rng.randrange(1024) for _ in range(PROMPT_TOKENS)] for _ in range(PROMPTS)]
    for number in range(OPEN_REQUESTS + CHOICES):
        index, tokens = zipf.draw(), prompts[rng.randrange(PROMPTS)]
        if number % 2:
            tokens = [1024 + number, *tokens[1:]]  # read by no engine before
        yield _sample(name_digest(index), f"tenant-{index % TENANTS}", tokens)


def _choices(zipf: Zipf, rng: random.Random, choice: EngineChoice, engines: ServingEngines) -> list[float]:
    """Return the microseconds of each choice, while as many requests as are open end and begin."""
    times, running = [], list[tuple[str, RoutedRequest]]()
    requests = [choice.of_sample(BASE, sample, is_choice=True) for sample in _samples(zipf, rng)]
    settle_memory()
    for number, request in enumerate(requests):
        began = time.thread_time_ns()
        url = choice.order(engines, request)[0]
        nanoseconds = time.thread_time_ns() - began
        choice.begin(url, request)
        choice.note_served(engines.infos[url], request, request.digest)
        running.append((url, request))
        if number >= OPEN_REQUESTS:
            times.append(nanoseconds / 1e3)
            choice.end(*running.pop(rng.randrange(len(running))))
    return times
