"""The stored episodes of a job's steps, read for its tenant."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from mint_common.blobs.port import Blobs
from mint_common.errors import BlobMissing, MintError, NotFound
from mint_common.json_types import JsonObject
from mint_common.records import WaveLogprobs, decode_logprobs, decode_record
from mint_common.runtime.fair_gate import FairGate
from services.rollout.adapters.engine_chat import EngineChat
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.core.job import Job
from services.rollout.core.rollout_view import ShownPart, rollouts_view, shown_group, step_wave
from services.rollout.core.staleness import staleness_of
from services.rollout.core.wave import Wave
from services.rollout.handlers.engine_requests import all_of

TEXTS_AT_ONCE = 8
_log = logging.getLogger(__name__)
Part = TypeVar("Part")
Text = TypeVar("Text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """Reads records; ``reading`` admits readers, as a record is held whole while it is read."""

    jobs: PostgresJobs
    blobs: Blobs
    chat: EngineChat
    reading: FairGate

    async def show(
        self,
        job: Job,
        *,
        step: int | None,
        group: int,
        episode: int | None,
        token_texts: bool = False,
        wave: str | None = None,
    ) -> JsonObject:
        """Return a group of a step, or one of its episodes. Raises NotFound, InvalidField.

        ``token_texts``: with the text of each sampled token. ``wave`` is the id of the step's wave.
        """
        waves = await self.jobs.waves_of(job.job_id)
        found, lags = step_wave(waves, step, wave), staleness_of(waves)
        assert found.record is not None
        async with self.reading.turn(job.tenant_id):
            try:
                data = await self.blobs.get(found.record)
            except BlobMissing as error:
                raise NotFound(kind="recorded step", name=str(found.step)) from error
            record = await asyncio.to_thread(decode_record, data)
            del data
            logprobs = await self._logprobs(found)
            shown = shown_group(record, logprobs, group=group, episode=episode)
            texts = await self._read(shown.parts, partial(self._text, job))
            pieces = await self._read(shown.sampled, partial(self._pieces, job)) if token_texts else None
            lag = lags[found.step]
            texts = texts or [None] * len(shown.parts)
            return rollouts_view(found, record, shown, texts, group=group, staleness=lag, token_texts=pieces)

    async def _logprobs(self, wave: Wave) -> WaveLogprobs | None:
        """Return the trainer's log-probabilities of a wave; None where it has none that can be read."""
        if wave.logprobs is None:
            return None
        try:
            return await asyncio.to_thread(decode_logprobs, await self.blobs.get(wave.logprobs))
        except MintError as error:
            _log.warning("log-probabilities not read", extra={"wave_id": wave.wave_id, "problem": str(error)})
            return None

    async def _read(
        self, parts: Sequence[Part], ask: Callable[[Part], Awaitable[Text]]
    ) -> Sequence[Text] | None:
        """Return an engine's answer for each part; None while no engine of the base answers."""
        turns = asyncio.Semaphore(TEXTS_AT_ONCE)

        async def answer(part: Part) -> Text:
            async with turns:
                return await ask(part)

        try:
            return await all_of(answer(part) for part in parts)
        except MintError:
            return None

    async def _text(self, job: Job, tokens: tuple[int, ...]) -> str | None:
        return await self.chat.text(job.base, tokens, tenant_id=job.tenant_id) if tokens else ""

    async def _pieces(self, job: Job, part: ShownPart) -> Sequence[str]:
        return await self.chat.token_texts(job.base, part.tokens, tenant_id=job.tenant_id)
