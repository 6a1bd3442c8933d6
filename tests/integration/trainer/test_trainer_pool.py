"""Two trainers of one base: each policy is at one of them, whichever is asked; results are those of one."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from mint_common.client.registry import BaseRegistration
from mint_common.client.trainer import TrainerClient
from mint_common.errors import MintError
from mint_common.events import RevisionExported
from mint_common.ids import BaseName, PolicyId
from mint_common.training import Close, Open, Operation, Outcome, Pending, Submission
from services.standalone.adapters.launch import free_port
from services.trainer.app import run
from services.trainer.core.ranks import ProcessRank
from services.trainer.settings import TrainerSettings

from .conftest import LORA, Stage
from .killing import MortalTrainer
from .operating import ADAM, TENANT, make_pass, serving
from .test_operation_crashes import Told, make_script, told, train

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

POLICIES = [PolicyId(f"policy_{letter}") for letter in "abcd"]
OPEN_HOLDERS = "SELECT holder FROM trainer.training WHERE policy_id = ANY($1)"
HOLDERS = "SELECT policy_id, holder FROM trainer.training ORDER BY policy_id"


PAUSE_AT = 21
MakeScript = Callable[[int, PolicyId], list[Operation]]


def make_long(seed: int, _: PolicyId) -> list[Operation]:
    """Return a session of many steps."""
    steps = [each for step in range(40) for each in (make_pass(1000 * seed + step, data=2), ADAM)]
    return [Open(base=BaseName("tiny"), lora=LORA), *steps, Close()]


@dataclass(slots=True, kw_only=True)
class Two:
    """Two trainers of a pool that steps one policy at a time, with their clients."""

    trainers: Sequence[MortalTrainer]
    clients: Sequence[TrainerClient]
    frozen: int | None = None
    both: asyncio.Event | None = None
    """Set when the first has let a policy go: operations from `PAUSE_AT` on wait for it."""

    def asked(self, number: int) -> TrainerClient:
        """Return one of them, which is not the frozen one."""
        return self.clients[(number + (number % 2 == self.frozen)) % 2]

    async def submit(self, submission: Submission, *, via: int) -> None:
        """Submit an operation at one of them, or at the other when that one is away."""
        for attempt in range(600):
            try:
                async with asyncio.timeout(4):
                    return await self.asked(via + attempt // 4).submit(submission)
            except TimeoutError:  # a frozen one never answers
                await asyncio.sleep(0.05)
            except MintError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(0.05)
        raise AssertionError(submission.seq)

    async def outcome(self, policy_id: PolicyId, seq: int, *, via: int) -> Outcome:
        """Return an outcome that one of them tells."""
        for attempt in range(600):
            try:
                async with asyncio.timeout(4):
                    found = await self.asked(via + attempt).outcome(policy_id, seq, wait_seconds=1)
            except (MintError, TimeoutError):
                await asyncio.sleep(0.05)
            else:
                if not isinstance(found, Pending):
                    return found
        raise AssertionError((policy_id, seq))

    async def train(self, script: Sequence[Operation], policy_id: PolicyId, rng: random.Random) -> Told:
        """Send a script, each operation by any of the trainers; return what came of it."""

        async def send() -> None:
            for seq, operation in enumerate(script):
                if self.both is not None and seq == PAUSE_AT:
                    await self.both.wait()
                await self.submit(Submission(policy_id, TENANT, seq, operation), via=rng.randrange(2))

        sending = asyncio.ensure_future(send())
        await asyncio.sleep(0)
        outcomes = []
        for seq in range(len(script)):
            while seq == 0 and not sending.done():
                await asyncio.sleep(0.02)
            outcomes.append(await self.outcome(policy_id, seq, via=rng.randrange(2)))
        await sending
        return told(outcomes)


async def run_registered(settings: TrainerSettings, process: ProcessRank) -> None:
    """Run a trainer without a registry."""

    async def registered(_: BaseRegistration) -> None:
        return

    BaseRegistration.run = registered  # type: ignore[method-assign]  # of this process
    await run(settings, process)


@asynccontextmanager
async def two_trainers(stage: Stage, **changes: float) -> AsyncIterator[Two]:
    trainers = [
        MortalTrainer(
            stage.settings.model_copy(
                update={"http_port": free_port(), "batch_policies": 1, "lease_seconds": 5.0, **changes}
            )
        )
        for _ in range(2)
    ]
    try:
        for trainer in trainers:
            trainer.run = run_registered
            await trainer.start()
        clients = [trainer.client() for trainer in trainers]
        async with asyncio.timeout(60):
            while len(await stage.rows("SELECT FROM trainer.trainers")) < 2:
                await asyncio.sleep(0.05)
        try:
            yield Two(trainers=trainers, clients=clients)
        finally:
            for client in clients:
                await client.aclose()
    finally:
        for trainer in trainers:
            trainer.kill()


async def calm(stage: Stage, seeds: Sequence[int], *, make: MakeScript = make_script) -> list[Told]:
    """Return what one trainer tells of the scripts."""
    found = []
    async with stage.trainer(batch_policies=1) as trainer, serving(trainer) as client:
        for seed in seeds:
            policy_id = PolicyId(f"policy_calm_{seed}")
            found.append(told(await train(client, make(seed, policy_id), policy_id)))
    return found


async def train_all(two: Two, seeds: Sequence[int], *, make: MakeScript = make_script) -> list[Told]:
    scripts = [make(seed, policy) for seed, policy in zip(seeds, POLICIES, strict=False)]
    training = [
        two.train(script, policy, random.Random(seed))
        for script, policy, seed in zip(scripts, POLICIES, seeds, strict=False)
    ]
    return list(await asyncio.gather(*training))


async def test_operations_reach_the_holder_whichever_trainer_takes_them_in(stage: Stage) -> None:
    seeds = [1, 2, 3, 4]
    expected = await calm(stage, seeds)
    async with two_trainers(stage) as two:
        assert await train_all(two, seeds) == expected
        holders = [row["holder"] for row in await stage.rows(HOLDERS) if "calm" not in row["policy_id"]]
        assert len(set(holders)) == 2, "each of them has a part"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
async def test_kill_9_of_a_trainer_of_two_changes_no_bit(stage: Stage, seed: int) -> None:
    seeds = [10 * seed + number for number in range(1, 5)]
    expected = await calm(stage, seeds)
    rng = random.Random(seed)
    snapshot_seconds = rng.choice((0.0, 0.3, 60.0))
    async with two_trainers(stage, snapshot_seconds=snapshot_seconds) as two, asyncio.TaskGroup() as group:
        training = group.create_task(train_all(two, seeds))
        for _ in range(2):
            await asyncio.sleep(rng.uniform(0.3, 1.5))
            victim = rng.choice(two.trainers)
            victim.kill()
            await asyncio.sleep(rng.uniform(0.0, 1.0))
            await victim.start()
    assert training.result() == expected


async def test_a_trainer_that_joins_a_busy_pool_gets_its_part(stage: Stage) -> None:
    seeds = [21, 22, 23, 24]
    expected = await calm(stage, seeds, make=make_long)
    async with two_trainers(stage) as two:
        two.trainers[1].kill()
        async with asyncio.timeout(60):
            while len(await stage.rows("SELECT FROM trainer.trainers")) == 2:
                await asyncio.sleep(0.05)
        two.both = asyncio.Event()
        training = asyncio.ensure_future(train_all(two, seeds, make=make_long))
        while len(await stage.rows("SELECT FROM trainer.training WHERE policy_id = ANY($1)", POLICIES)) < 4:
            await asyncio.sleep(0.02)
        await two.trainers[1].start()
        async with asyncio.timeout(120):
            while len({row["holder"] for row in await stage.rows(OPEN_HOLDERS, POLICIES)}) < 2:
                await asyncio.sleep(0.05)
        two.both.set()
        holders = set[int | None]()
        while not training.done():
            holders |= {row["holder"] for row in await stage.rows(HOLDERS) if row["policy_id"] in POLICIES}
            await asyncio.sleep(0.05)
        assert training.result() == expected
        assert len(holders - {None}) == 2, "the second one has trained as well"


async def test_a_trainer_that_only_seemed_dead_commits_nothing(stage: Stage) -> None:
    seeds = [5, 6]
    expected = await calm(stage, seeds)
    async with two_trainers(stage) as two:
        training = asyncio.ensure_future(train_all(two, seeds))
        while not await stage.rows(
            "SELECT FROM trainer.training WHERE step > 0 AND policy_id = ANY($1)", POLICIES
        ):
            await asyncio.sleep(0.02)
        two.trainers[0].freeze()
        two.frozen = 0
        async with asyncio.timeout(60):
            while len(await stage.rows("SELECT FROM trainer.trainers")) == 2:
                await asyncio.sleep(0.1)
        assert await training == expected
        two.trainers[0].thaw()
        two.frozen = None
        # It learns that it is another member now, and goes on as one.
        async with asyncio.timeout(60):
            while len(await stage.rows("SELECT FROM trainer.trainers")) < 2:
                await asyncio.sleep(0.1)
        again = [await two.outcome(POLICIES[0], seq, via=0) for seq in range(3)]
        assert told(again).outcomes == expected[0].outcomes[:3]


async def test_a_trainer_that_stops_lets_its_policies_go_whole(stage: Stage) -> None:
    async with two_trainers(stage, snapshot_seconds=3600) as two:
        first, other = (two.clients[0], two.clients[1])
        for policy, via in zip(POLICIES[:2], (first, other), strict=True):
            outcomes = await train(via, make_script(3, policy)[:8], policy)
            assert len(outcomes) == 8
        process = two.trainers[0].process
        assert process is not None
        process.terminate()
        await asyncio.to_thread(process.join, 30)
        assert process.exitcode == 0
        rows = await stage.rows(
            "SELECT holder, position, snapshot_position FROM trainer.training ORDER BY 1 NULLS LAST"
        )
        assert [row["holder"] is None for row in rows] == [False, True]
        assert rows[1]["snapshot_position"] > 0
        assert rows[1]["position"] - rows[1]["snapshot_position"] <= 1  # a save at the end changes nothing
        for policy in POLICIES[:2]:
            await two.submit(Submission(policy, TENANT, 8, make_pass(1)), via=1)
            await two.submit(Submission(policy, TENANT, 9, ADAM), via=1)
            await two.outcome(policy, 9, via=1)


async def test_waves_are_trained_where_their_policy_is(stage: Stage) -> None:
    async with two_trainers(stage):
        for step in (1, 2):
            for policy in POLICIES:
                await stage.publish(await stage.wave(step, policy=policy))
            exported = await stage.expect(step * len(POLICIES))
            assert all(isinstance(event, RevisionExported) for event in exported)
        assert {row["holder"] for row in await stage.rows(HOLDERS)} == {1, 2}
