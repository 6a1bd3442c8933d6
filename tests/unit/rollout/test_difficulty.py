"""Tasks that taught nothing are drawn less often, within a bound, and the same ones after a restart."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from mint_common.events import DifficultySampling, EnvironmentSpec, WaveRequested
from mint_common.ids import TenantId
from mint_common.job_requests import DifficultyBody, EnvironmentBody, JobRequest
from mint_common.records import decode_prompts
from services.rollout.adapters.environments.worker.shim import draw
from services.rollout.core.difficulty import (
    CANDIDATES,
    chosen,
    outcomes_of,
    remembered,
    remembered_steps,
)
from services.rollout.core.environment import EnvironmentTask, EpisodeCall, EpisodeReport
from services.rollout.core.job_plan import plan_job
from services.rollout.core.wave import WaveCounts
from tests.unit.rollout.rig import ALGORITHMS, Rig
from tests.unit.rollout.test_environment_waves import CountingEnvironment, begin, completed, rig_of
from tests.unit.rollout.world import published

RULE = DifficultySampling(least=0.25)
TASKS = [EnvironmentTask(key=str(number), entry="{}") for number in range(16)]
OUTCOMES = st.dictionaries(st.sampled_from([task.key for task in TASKS]), st.booleans())


@given(st.lists(st.sampled_from(TASKS), min_size=8, max_size=32), OUTCOMES, st.integers(0, 2**31 - 1))
def test_a_step_gets_its_tasks_whatever_is_known_of_them(
    candidates: list[EnvironmentTask], outcomes: dict[str, bool], seed: int
) -> None:
    found = chosen(candidates, outcomes, RULE, n=8, seed=seed)
    assert len(found) == 8
    assert set(map(repr, found)) <= set(map(repr, candidates))
    keys = {task.key for task in candidates}
    assert len({task.key for task in found}) == min(8, len(keys)), "none comes twice while there are others"
    mixed = random.Random(seed).sample(candidates, len(candidates))
    if len(keys) >= 8:
        assert chosen(mixed, outcomes, RULE, n=8, seed=seed) == found, "the seed alone decides"
    uniform = replace(RULE, least=1.0)
    assert chosen(candidates, outcomes, uniform, n=8, seed=seed) == chosen(
        candidates, {}, RULE, n=8, seed=seed
    )


def test_a_task_that_taught_nothing_has_its_weight_and_no_less() -> None:
    pair = TASKS[:2]
    drawn = Counter(
        chosen(pair, {"0": False, "1": True}, RULE, n=1, seed=seed)[0].key for seed in range(4000)
    )
    # Weights 1/4 and 1: a fifth, with a standard error of 0.0063.
    assert drawn["0"] / 4000 == pytest.approx(0.2, abs=0.025)
    all_equal = dict.fromkeys((task.key for task in pair), False)
    drawn = Counter(chosen(pair, all_equal, RULE, n=1, seed=seed)[0].key for seed in range(4000))
    assert drawn["0"] / 4000 == pytest.approx(0.5, abs=0.032)


def test_the_newest_outcome_of_a_task_counts_and_a_failed_group_has_none() -> None:
    first, second = WaveCounts(differing={"a": True, "b": False}), WaveCounts(differing={"b": True})
    assert remembered([first, second]) == {"a": True, "b": True}
    assert outcomes_of(TASKS[:1], [None]) == {}


def test_a_draw_uses_the_steps_that_are_published_whenever_it_is_made() -> None:
    assert list(remembered_steps(1, staleness=0)) == []
    assert list(remembered_steps(4, staleness=0)) == [1, 2, 3]
    assert list(remembered_steps(4, staleness=2)) == [1]
    assert list(remembered_steps(3, staleness=2)) == []
    assert len(remembered_steps(5000, staleness=0)) == 256


@dataclass
class FewTasks(CountingEnvironment):
    """Eight tasks; the episodes of the first half all have the same reward."""

    async def draw(
        self, environment: EnvironmentSpec, split: str, n: int, seed: int, *, tenant_id: TenantId
    ) -> list[EnvironmentTask]:
        """Draw as a worker does."""
        return [EnvironmentTask(**task) for task in draw([{}] * 8, n, seed)]

    async def _run(self, task: EnvironmentTask, call: EpisodeCall) -> EpisodeReport:
        report = await super()._run(task, call)
        assert call.place is not None
        return replace(report, reward=float(call.place.sample) if int(task.key) >= 4 else 1.0)


async def drawn_by(rig: Rig, wave: WaveRequested, *, steps: int) -> list[Sequence[str]]:
    """Return the tasks of some steps of a job."""
    found = []
    for step in range(1, steps + 1):
        found.append([prompt.text for prompt in decode_prompts(await rig.blobs.get(wave.prompts))])
        await completed(rig, wave)
        fact = replace(published(step), metrics={"trained_tokens": 9.0})
        await rig.of_jobs.on_revision_published(fact)
        wave = next((each for each in await rig.led_to(fact) if isinstance(each, WaveRequested)), wave)
    return found


async def test_a_job_draws_what_taught_something_and_the_same_tasks_when_it_is_run_again() -> None:
    steps = []
    for _ in range(2):
        environment = FewTasks()
        rig = rig_of(environment)
        rule = DifficultySampling(least=0.05)
        wave = await begin(rig, steps=12, prompts_per_step=4, difficulty=rule)
        steps.append(await drawn_by(rig, wave, steps=12))
    assert steps[0] == steps[1]
    late = Counter(int(key) >= 4 for step in steps[0][4:] for key in step)
    assert late[True] > 0.7 * late.total(), "uniformly it would be half"
    row = await rig.jobs.wave(wave.wave_id)
    assert row is not None
    assert row.counts.differing == {key: int(key) >= 4 for key in steps[0][0]}


async def test_a_job_without_it_draws_as_many_tasks_as_it_samples_and_notes_nothing() -> None:
    asked = []

    class Asked(FewTasks):
        async def draw(self, *given: object, **named: object) -> list[EnvironmentTask]:
            asked.append(given[2])
            return await super().draw(*given, **named)  # type: ignore[arg-type]

    for difficulty in (None, RULE):
        rig = rig_of(Asked())
        wave = await begin(rig, prompts_per_step=2, difficulty=difficulty)
        await completed(rig, wave)
        row = await rig.jobs.wave(wave.wave_id)
        assert row is not None
        assert bool(row.counts.differing) == bool(difficulty)
    assert asked == [2, 2 * CANDIDATES]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (JobRequest(policy="p", task="t", difficulty=DifficultyBody()), "difficulty"),
        (
            JobRequest(policy="p", env=EnvironmentBody(kind="session"), difficulty=DifficultyBody()),
            "difficulty",
        ),
        (
            JobRequest(
                policy="p",
                env=EnvironmentBody(kind="skyrl", id="e"),
                difficulty=DifficultyBody(least=0.01),
            ),
            "difficulty.least",
        ),
    ],
)
def test_what_cannot_be_drawn_so_is_refused(request_: JobRequest, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        plan_job(request_, ALGORITHMS, defaults={}, max_context=4096)
    assert refused.value.field == field
