"""A rollout process that is killed while episodes run: nothing is trained twice, no score is lost."""

import asyncio
import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from mint_common.blobs.localfs import LocalBlobs
from mint_common.events import EnvironmentSpec, EvaluationPlan
from mint_common.records import WaveRecord, decode_record
from tests.integration.rollout.neighbours import TOKEN, Neighbours, Trainer
from tests.integration.rollout.process import make_rollout, show, until
from tests.processes import ServiceProcess
from tests.testing.factories import JOB
from tests.unit.rollout.world import published, submitted

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

STEPS, PROMPTS, GROUP, EVALUATED = 5, 3, 4, 4
PLAN = EvaluationPlan(
    every=2,
    rows=EVALUATED,
    file=None,
    holdout=0.0,
    metric="valid_reward_mean",
    keep="best",
    early_stopping=None,
    split="eval",
)


def environment(log: Path) -> EnvironmentSpec:
    return EnvironmentSpec(
        kind="skyrl",
        id="tokens",
        args={"log": str(log)},
        split="train",
        max_turns=2,
        episode_seconds=60.0,
        min_group=3,
        evaluation=PLAN,
    )


@pytest.fixture
def service(tmp_path: Path, nats_url: str, database: str, neighbours: Neighbours) -> ServiceProcess:
    """The process, which a test starts."""
    made = make_rollout(tmp_path, nats_url=nats_url, dsn=database, neighbours=neighbours)
    return replace(made, launch=(str(Path(__file__).with_name("token_service.py")),))


@pytest.mark.parametrize("staleness", [pytest.param(0, marks=pytest.mark.slow), 1])
async def test_a_rollout_killed_amid_episodes_trains_no_group_twice(
    nats_url: str, service: ServiceProcess, neighbours: Neighbours, tmp_path: Path, staleness: int
) -> None:
    log, trainer = tmp_path / "episodes.jsonl", Trainer()
    job = submitted(
        task="",
        environment=environment(log),
        steps=STEPS,
        prompts_per_step=PROMPTS,
        group_size=GROUP,
        staleness=staleness,
        temperature=0.7,
    )
    await asyncio.to_thread(service.start)
    try:
        async with trainer.running(nats_url):
            await trainer.submit(job)
            for _ in range(3):
                # In the middle: some episodes of a wave have ended, others hold a call.
                seen = len(neighbours.requests)
                await until(lambda: len(neighbours.requests) > seen + GROUP)  # noqa: B023  # awaited here
                neighbours.held.set()
                await until(lambda: neighbours.open > 0)
                await asyncio.to_thread(service.kill)
                neighbours.held.clear()
                await asyncio.to_thread(service.start)
            await until(lambda: len(trainer.ends) == 1, seconds=120)
        async with httpx.AsyncClient(
            base_url=service.url, headers={"x-mint-internal-token": TOKEN}, trust_env=False
        ) as client:
            shown: dict[str, Any] = await show(client)
    finally:
        await asyncio.to_thread(service.kill)
    assert (shown["state"], shown["reason"]) == ("succeeded", "")
    waves = sorted(trainer.waves, key=lambda wave: wave.step)  # ahead they may end in another order
    assert [wave.step for wave in waves] == [*range(1, STEPS + 1)]
    records = [await _record(tmp_path, wave.record) for wave in waves]
    assert len({record.wave_id for record in records}) == STEPS
    told = [json.loads(line) for line in log.read_text().splitlines()]
    _check_repetitions(told)
    known = Counter(tuple(each["tokens"]) for each in {one["episode_id"]: one for one in told}.values())
    trained = Counter(
        (*group.prompt_tokens, *sample.tokens)
        for record in records
        for group in record.groups
        for sample in group.samples
    )
    assert sum(trained.values()) == STEPS * PROMPTS * GROUP
    assert trained <= known, "each trained episode is one that ran"
    for step, record in zip(shown["steps"], records, strict=True):
        assert len(record.groups) == PROMPTS
        assert {each.outcome for group in record.groups for each in group.episodes} == {"ok"}
        assert step["episodes"] == {"ok": PROMPTS * GROUP}
        assert step["staleness"] <= staleness
        assert sum(step["staleness_tokens"].values()) == step["episodes"]["ok"] * 2 * 3  # "no" and its end
    scores = {step["step"]: step.get("valid_reward_mean") for step in shown["steps"]}
    assert {step for step, value in scores.items() if value is not None} == {2, 4, 5}
    recorded = {each["revision"]: each for _, _, each in neighbours.scores}
    assert set(recorded) == {published(step).revision.digest for step in (2, 4, 5)}
    assert {(each["suite"], each["n"]) for each in recorded.values()} == {(f"job:{JOB}", EVALUATED)}
    of_evaluation = [each for each in told if each["task"].startswith("eval ")]
    assert len({each["episode_id"] for each in of_evaluation}) == 3 * EVALUATED
    assert len({each["task"] for each in of_evaluation}) == EVALUATED, "the same tasks for each revision"


def _check_repetitions(told: list[dict[str, Any]]) -> None:
    """Check that an episode that ran again after a kill ran with its seed and task, as the first time."""
    again = defaultdict[str, set[str]](set)
    for each in told:
        again[each["episode_id"]].add(json.dumps(each))
    assert all(len(same) == 1 for same in again.values())


async def _record(folder: Path, claim: Any) -> WaveRecord:
    return decode_record(await LocalBlobs(folder / "blobs").get(claim))
