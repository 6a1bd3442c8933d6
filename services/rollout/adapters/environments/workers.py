"""Installed environments, run by workers; see `services.rollout.core.environment.Environments`."""

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mint_common.errors import InvalidField, MintError, Overloaded, TaskFailed
from mint_common.events import EnvironmentSpec
from mint_common.ids import TenantId
from mint_common.runtime.fair_gate import FairGate
from mint_common.runtime.held_folder import hold_folder
from mint_common.tenant_budget import TenantBudget
from mint_common.waiting import cancel_all
from services.rollout.adapters.environments.installed import find_environment
from services.rollout.adapters.environments.pool import (
    SHORT_CALLS,
    CallExpired,
    EnvironmentEnded,
    EnvironmentLimits,
    EnvironmentPool,
)
from services.rollout.adapters.environments.process import (
    Confinement,
    EnvironmentRefused,
    EnvironmentWorker,
    start_environment_worker,
)
from services.rollout.adapters.environments.reward_url import RewardUrls
from services.rollout.adapters.workers.process import WorkerEndedError
from services.rollout.core.environment import (
    EnvironmentFault,
    EnvironmentInfo,
    Environments,
    EnvironmentTask,
    EpisodeCall,
    EpisodeReport,
)
from services.rollout.core.environment_answers import read_info, read_reports, read_tasks
from services.rollout.core.installed_environment import InstalledEnvironment
from services.rollout.settings import EnvironmentSettings

_TEND_SECONDS = 1.0
_MAX_DESCRIBED = 256
_SHORT_CALLERS = 32
"""Descriptions and draws of a tenant that wait or run in an environment."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentHost:
    """Where environments are installed and how they run.

    Their clients find the model on the unix socket ``door``. Describing, loading and drawing may take
    ``call_seconds``.
    """

    folder: Path | None
    door: str
    limits: EnvironmentLimits
    is_confined: bool
    call_seconds: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """The pool of one installation, and the turns of tenants at it: of episodes, and of other calls.

    Episodes that need more of a worker have turns of their own. A worker loads an environment with new
    arguments at a time, so a tenant has as many other calls as there are workers.
    """

    pool: EnvironmentPool
    workers: int
    short_turns: FairGate
    turns_by_room: dict[int, FairGate] = field(default_factory=dict)

    def turns(self, room: int) -> FairGate:
        """Return the turns of episodes that run with fewer than ``room`` others in a worker."""
        return self.turns_by_room.setdefault(room, FairGate(self.workers * room))


class WorkerEnvironments:
    """Environments whose code runs in workers, which those of one installation share; and reward URLs."""

    def __init__(self, host: EnvironmentHost, homes: Path) -> None:
        self._host = host
        self._homes = homes
        self._urls = RewardUrls()
        self._running: dict[str, _Running] = {}
        self._described: OrderedDict[str, EnvironmentInfo] = OrderedDict()

    async def describe(
        self, environment: EnvironmentSpec, split: str, *, tenant_id: TenantId
    ) -> EnvironmentInfo:
        """Describe an environment with its arguments, once for each set."""
        installed = await self._installed(environment)
        if installed.url:
            return self._urls.describe(environment)
        key = _described_key(installed, environment, split)
        if key not in self._described:
            call = {"do": "describe", "split": split}
            try:
                answer = await self._ask(environment, call, tenant_id=tenant_id)
                self._described[key] = read_info(answer)
            except EnvironmentRefused as error:
                field = {"args": "args", "split": "split"}.get(error.of, "id")
                raise InvalidField(field=f"environment.{field}", problem=str(error)) from error
            except (
                CallExpired,
                EnvironmentEnded,
                WorkerEndedError,
                TimeoutError,
                OSError,
                ValueError,
            ) as error:
                raise InvalidField(field="environment.id", problem=_unusable(error)) from error
            if len(self._described) > _MAX_DESCRIBED:
                self._described.popitem(last=False)
        return self._described[key]

    async def draw(
        self, environment: EnvironmentSpec, split: str, n: int, seed: int, *, tenant_id: TenantId
    ) -> list[EnvironmentTask]:
        """Draw tasks. Raises Overloaded when the tenant's other calls wait too."""
        if environment.kind == "http":
            return self._urls.draw(environment, n, seed)
        call = {"do": "draw", "split": split, "n": n, "seed": seed}
        try:
            return read_tasks(await self._ask(environment, call, tenant_id=tenant_id), n=n)
        except Overloaded:
            raise
        except (EnvironmentRefused, CallExpired, EnvironmentEnded, MintError, ValueError) as error:
            raise TaskFailed(task=environment.id, problem=str(error)) from error
        except (WorkerEndedError, TimeoutError, OSError) as error:
            raise TaskFailed(task=environment.id, problem=_unusable(error)) from error

    async def run(
        self,
        environment: EnvironmentSpec,
        task: EnvironmentTask,
        episodes: Sequence[EpisodeCall],
        *,
        tenant_id: TenantId,
    ) -> list[EpisodeReport]:
        """Run episodes; their time begins when a worker takes them."""
        if environment.kind == "http":
            return [await self._run_url(environment, task, each) for each in episodes]
        call = {
            "do": "run",
            "entry": task.entry,
            "episodes": [_told(each) for each in episodes],
        }
        ids = [each.episode_id for each in episodes]
        try:
            answer = await self._ask(environment, call, tenant_id=tenant_id, ids=ids)
            return read_reports(answer, episodes=len(episodes))
        except EnvironmentRefused as error:
            return [EpisodeReport(reward=None, error=str(error)) for _ in episodes]
        except EnvironmentEnded as error:
            raise EnvironmentFault(
                str(error), whose="environment" if error.is_guilty else "infrastructure"
            ) from error
        except (CallExpired, MintError, ValueError) as error:
            raise EnvironmentFault(str(error), whose="environment") from error
        except (WorkerEndedError, TimeoutError, OSError) as error:
            raise EnvironmentFault(_unusable(error), whose="infrastructure") from error

    async def _run_url(
        self, environment: EnvironmentSpec, task: EnvironmentTask, episode: EpisodeCall
    ) -> EpisodeReport:
        try:
            url = (await self._installed(environment)).url
        except MintError as error:
            raise EnvironmentFault(str(error), whose="environment") from error
        return await self._urls.run(environment, url, task.entry, episode)

    async def _ask(
        self,
        environment: EnvironmentSpec,
        call: Mapping[str, Any],
        *,
        tenant_id: TenantId,
        ids: Sequence[str] = (),
    ) -> Any:  # JSON
        installed = await self._installed(environment)
        running = self._pool(installed)
        call = {**call, "args": environment.args, "max_turns": environment.max_turns}
        if not ids:  # it does not wait for episodes
            async with running.short_turns.turn(tenant_id):
                return await running.pool.call(call, seconds=self._host.call_seconds)
        described = self._described.get(_described_key(installed, environment, environment.split))
        most = self._host.limits.calls
        room = most if described is None or described.at_once is None else min(most, described.at_once)
        async with running.turns(room).turn(tenant_id):
            return await running.pool.call(call, seconds=environment.episode_seconds, ids=ids, room=room)

    async def _installed(self, environment: EnvironmentSpec) -> InstalledEnvironment:
        return await asyncio.to_thread(find_environment, self._host.folder, environment.kind, environment.id)

    def _pool(self, installed: InstalledEnvironment) -> _Running:
        """Return the workers of an installation; a later installation of the same name has its own."""
        host = self._host
        assert host.folder is not None
        place = host.folder / installed.name
        key = f"{installed.name} {installed.sha256}"

        async def start() -> EnvironmentWorker:
            limits = Confinement(memory_bytes=host.limits.memory_bytes, is_confined=host.is_confined)
            return await start_environment_worker(installed, place, limits, door=host.door, homes=self._homes)

        if key not in self._running:
            self._running[key] = _Running(
                pool=EnvironmentPool(start, host.limits, name=installed.name),
                workers=host.limits.workers,
                short_turns=FairGate(
                    SHORT_CALLS * host.limits.workers,
                    limit=host.limits.workers,
                    callers=TenantBudget(what="your tenant's calls of the environment", limit=_SHORT_CALLERS),
                ),
            )
        return self._running[key]

    async def tend(self) -> None:
        """Look after the workers until cancelled, then end them."""
        try:
            while True:
                await asyncio.sleep(_TEND_SECONDS)
                for running in list(self._running.values()):
                    await running.pool.tend()
        finally:
            for running in self._running.values():
                await running.pool.close()


def _described_key(installed: InstalledEnvironment, environment: EnvironmentSpec, split: str) -> str:
    asked = [installed.sha256, installed.name, environment.args, environment.max_turns, split]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _told(episode: EpisodeCall) -> dict[str, object]:
    return {name: value for name, value in asdict(episode).items() if name not in {"socket", "place"}}


def _unusable(error: Exception) -> str:
    return f"its worker does not run here: {error}" if str(error) else "its worker does not become ready"


@asynccontextmanager
async def open_environments(host: EnvironmentHost) -> AsyncIterator[WorkerEnvironments]:
    """Run the workers of environments within the block; each starts when it is first needed."""
    homes = await asyncio.to_thread(hold_folder, "mint-environments-")
    environments = WorkerEnvironments(host, homes.path)
    if not host.is_confined:
        _log.warning("environments run unconfined: their code reads what this user may read")
    tending = asyncio.create_task(environments.tend())
    try:
        yield environments
    finally:
        await cancel_all(tending)
        await asyncio.to_thread(homes.remove)


def open_installed_environments(
    settings: EnvironmentSettings, door: Path
) -> AbstractAsyncContextManager[Environments]:
    """Return `open_environments` as settings describe it; ``door`` is the model door's socket."""
    limits = EnvironmentLimits(
        workers=settings.environment_workers,
        calls=settings.environment_episodes,
        memory_bytes=settings.environment_memory_bytes,
    )
    return open_environments(
        EnvironmentHost(
            folder=settings.environments_dir,
            door=str(door),
            limits=limits,
            is_confined=settings.environments_confined,
        )
    )
