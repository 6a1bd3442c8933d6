"""An open episode: its model calls, answered at one revision within its limits, and recorded.

Invariants:
- What is trained is what was sampled here: an environment can only ask.
- A call is answered at the episode's revision and temperature, or not at all.
- A failure of an engine marks the episode, whatever its environment makes of it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from mint_common.claims import RevisionRef
from mint_common.errors import InvalidField, MintError, NotFound, Unavailable
from mint_common.ids import BaseName, TenantId, derive_id
from mint_common.inference.body import read_body
from mint_common.inference.sizes import ContextExceeded
from mint_common.runtime.clock import Clock
from mint_common.waiting import cancel_all
from services.rollout.adapters.engine_chat import EngineChat
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.core.door.answers import (
    chat_answer,
    message_of,
    models_answer,
    reading_request,
    tokens_answer,
)
from services.rollout.core.door.conversation import (
    Turn,
    bridged,
    continued_turn,
    dummy_messages,
    rendered,
    turn_of,
)
from services.rollout.core.door.other_apis import (
    OtherRequest,
    Prepared,
    Replayed,
    answered_body,
    chat_of,
    replay_of,
)
from services.rollout.core.door.requests import ChatRequest, Json, TokensRequest
from services.rollout.core.environment import EpisodePlace
from services.rollout.core.sampling import GroupRequest, check_revision
from services.rollout.core.task import derive_seed
from services.rollout.core.trajectories import ModelCall, Segment, with_call
from services.rollout.handlers.engine_requests import EngineRequests

T = TypeVar("T")

MAX_OPEN = 16
"""Maximum calls of an episode at a time."""
OTHER_CALLS = 16
"""Maximum requests that sample nothing, or are refused, for each turn of an episode, and once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeTerms:
    """The limits of an episode: ``max_turns`` model calls, within ``seconds`` of the first.

    ``revision`` None is the bare base. A seed of each call derives from ``seed``, equal at each attempt.
    """

    episode_id: str
    tenant_id: TenantId
    base: BaseName
    revision: RevisionRef | None
    model: str
    temperature: float
    max_new_tokens: int
    max_turns: int
    seconds: float
    seed: int
    place: EpisodePlace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorParts:
    """What answers the calls of all episodes."""

    sampler: EngineSampler
    chat: EngineChat
    requests: EngineRequests
    clock: Clock


@dataclass(slots=True, kw_only=True)
class OpenEpisode:
    """The calls of one attempt at an episode.

    ``fault`` is the last failure of MinT's own parts. ``at_limit``: a call was refused or cut off for a limit
    of turns or tokens. ``model_seconds`` is the time that calls took.
    """

    terms: EpisodeTerms
    parts: DoorParts
    segments: tuple[Segment, ...] = ()
    turns: int = 0
    calls: int = 0
    at_limit: bool = False
    fault: MintError | None = None
    dtype: str = ""
    model_seconds: float = 0.0
    _answered: list[Turn] = field(default_factory=list)
    _open: int = 0
    _open_since: float = 0.0
    _deadline: float | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self) -> None:
        """End the episode: what it still waits for is given up."""
        self._ended.set()

    def note_unanswered(self) -> None:
        """Note a fault of MinT's own if a call is open, and calls took most of the episode's time."""
        open_seconds = self.parts.clock.monotonic() - self._open_since if self._open else 0.0
        if self._open and self.model_seconds + open_seconds >= self.terms.seconds / 2:
            self.fault = Unavailable(what="the model", problem="most of an episode's time went by without it")

    async def chat(self, request: ChatRequest) -> Json:
        """Return a chat completion."""
        return await self._bounded(self._chat(request))

    async def other(self, request: OtherRequest) -> Replayed:
        """Return an answer of another API."""
        return await self._bounded(self._other(request))

    async def generate(self, request: TokensRequest) -> Json:
        """Return the tokens that continue a prompt."""
        return await self._bounded(self._generate(request))

    async def tokenize(self, body: bytes) -> bytes:
        """Return an answer of vLLM's `/tokenize`."""
        own = self.terms
        asked = read_body(body)
        return await self._bounded(
            self._asked(lambda: self.parts.chat.tokenize(own.base, asked, tenant_id=own.tenant_id))
        )

    async def models(self) -> Json:
        """Return the list of models."""
        return models_answer(self.terms.model, max_context=await self._bounded(self._max_context()))

    async def _chat(self, request: ChatRequest) -> Json:
        prompt = request.tokens or await self._prompt(request)
        call, name = await self._sample(
            prompt, request.limit, request.stop_token_ids, within="tokens" if request.tokens else "messages"
        )
        read = await self._asked(
            lambda: self.parts.chat.read(
                self.terms.base, reading_request(call, request), tenant_id=self.terms.tenant_id
            )
        )
        message = message_of(call, read)
        await self._remember([*request.messages, message], request.template, call)
        created = int(self.parts.clock.now())
        return chat_answer(request, call, message, read.get("logprobs"), name=name, created=created)

    async def _other(self, request: OtherRequest) -> Replayed:
        """Sample as for chat; what the next turn repeats is the answer as its API has it."""
        chat = chat_of(await self._prepared(request, request.body))
        call, _ = await self._sample(
            await self._prompt(chat), chat.limit, None, within=request.api.conversation
        )
        whole = await self._replayed(request, call, stream=False)
        assert whole.answer is not None
        after = await self._prepared(request, answered_body(request, whole.answer))
        await self._remember(after.messages, chat.template, call)
        return await self._replayed(request, call, stream=True) if request.stream else whole

    async def _prepared(self, request: OtherRequest, body: Json) -> Prepared:
        own, api = self.terms, request.api
        return await self._asked(
            lambda: self.parts.chat.prepare(own.base, api.prepare, body, tenant_id=own.tenant_id)
        )

    async def _replayed(self, request: OtherRequest, call: ModelCall, *, stream: bool) -> Replayed:
        own, body = self.terms, replay_of(request, call, stream=stream)
        return await self._asked(
            lambda: self.parts.chat.replay(
                own.base, request.api.replay, body, model=own.model, tenant_id=own.tenant_id
            )
        )

    async def _remember(self, messages: list[Json], template: Json, call: ModelCall) -> None:
        """Remember a conversation whose last message is the answer that was sampled."""
        is_cut = call.completion[-1] != await self._stop_token()
        self._answered.append(turn_of(messages, template, call.tokens, is_cut=is_cut))

    async def _generate(self, request: TokensRequest) -> Json:
        given = request.sampling_params
        call, name = await self._sample(
            request.token_ids, given.max_tokens, given.stop_token_ids, within="token_ids", stops=given.stops
        )
        return tokens_answer(request, call, name=name)

    async def _prompt(self, request: ChatRequest) -> tuple[int, ...]:
        """Return the prompt of messages: continuing what they repeat, or rendered as a whole."""
        turn = continued_turn(self._answered, request.messages, request.template)
        prompt = None if turn is None else await self._continued(turn, request)
        return prompt or await self._render(rendered(request.messages), request, generates=True)

    async def _continued(self, turn: Turn, request: ChatRequest) -> tuple[int, ...] | None:
        """Return the prompt that continues a turn; None if the base's template cannot."""
        count = len(turn.messages)
        base, tail = dummy_messages(request.messages[count - 1]), rendered(request.messages[count:])
        try:
            begin = await self._render(base, request, generates=False)
            full = await self._render([*base, *tail], request, generates=True)
        except InvalidField:  # it takes no such conversation
            return None
        return bridged(turn, begin, full, stop=await self._stop_token())

    async def _render(
        self, messages: list[Json], request: ChatRequest, *, generates: bool
    ) -> tuple[int, ...]:
        own = self.terms
        return await self._asked(
            lambda: self.parts.chat.render(
                own.base, messages, request.template, generates=generates, tenant_id=own.tenant_id
            )
        )

    async def _sample(
        self,
        prompt: tuple[int, ...],
        limit: int | None,
        stop_tokens: list[int] | None,
        *,
        within: str,
        stops: tuple[str, ...] = (),
    ) -> tuple[ModelCall, str]:
        """Return a recorded call and its name. Raises InvalidField at the end of a limit, ContextExceeded."""
        max_context = await self._max_context()
        room = max_context - len(prompt)
        if room < 1:
            self.at_limit = True
            raise ContextExceeded(field=within, found=len(prompt), max_context=max_context)
        asked = replace(self._request(prompt, min(room, limit or room), stop_tokens), stops=stops)
        sampled = await self._asked(lambda: self.parts.sampler.sample(asked))
        (done,) = sampled.completions
        with self._noted():
            check_revision(asked, sampled)
        call = ModelCall(
            prompt=prompt,
            completion=done.tokens,
            logprobs=done.logprobs,
            reason=done.reason,
            text=done.text,
        )
        self.segments, self.dtype = with_call(self.segments, call), sampled.dtype
        self.at_limit |= len(done.tokens) >= min(room, self.terms.max_new_tokens) and done.reason == "length"
        return call, asked.request_id

    def _request(
        self, prompt: tuple[int, ...], max_tokens: int, stop_tokens: list[int] | None
    ) -> GroupRequest:
        """Count a turn, and return its request. Raises InvalidField after the last one."""
        own = self.terms
        if self.turns >= own.max_turns:
            self.at_limit = True
            raise InvalidField(field="max_turns", problem=f"the episode has had its {own.max_turns} calls")
        self.turns += 1
        return GroupRequest(
            request_id=derive_id("req", own.episode_id, self.turns),
            tenant_id=own.tenant_id,
            base=own.base,
            revision=own.revision,
            prompt="",
            prompt_tokens=prompt,
            n=1,
            max_new_tokens=min(max_tokens, own.max_new_tokens),
            temperature=own.temperature,
            seed=derive_seed(own.seed, "call", self.turns),
            logprobs_mode="processed",
            routes=False,
            stop_tokens=tuple(dict.fromkeys(stop_tokens or ())),
        )

    async def _max_context(self) -> int:
        return await self._asked(lambda: self.parts.sampler.max_context(self.terms.base))

    async def _stop_token(self) -> int:
        return await self._asked(lambda: self.parts.sampler.stop_token(self.terms.base))

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return an engine's answer; while engines are away or full they are asked again."""
        with self._noted():
            return await self.parts.requests.retried(self.terms.tenant_id, ask)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except MintError as error:
            if not isinstance(error, InvalidField | ContextExceeded):
                self.fault = error
            raise

    async def _bounded(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a call until the episode's end or its deadline. Raises InvalidField beyond a limit."""
        began = self.parts.clock.monotonic()
        try:
            self._admit(now=began)
        except MintError:
            work.close()
            raise
        assert self._deadline is not None
        working, ended = asyncio.ensure_future(work), asyncio.ensure_future(self._ended.wait())
        self._open_since = self._open_since if self._open else began
        self._open += 1
        try:
            await asyncio.wait(
                (working, ended), timeout=self._deadline - began, return_when=asyncio.FIRST_COMPLETED
            )
            if working.done():
                return self._result_of(working)
            if self._ended.is_set():
                raise NotFound(kind="open episode", name="of this address")
            self.note_unanswered()
            raise self.fault or InvalidField(field="episode_seconds", problem=self._too_late)
        finally:
            self._open -= 1
            self.model_seconds += self.parts.clock.monotonic() - began
            await cancel_all(working, ended)

    @property
    def _too_late(self) -> str:
        return f"its {self.terms.seconds:g} s are over"

    def _result_of(self, working: "asyncio.Future[T]") -> T:
        """Return a call's result; an error of our own is a fault of ours too."""
        error = working.exception()
        if error is not None and not isinstance(error, MintError):
            self.fault = MintError()
        return working.result()

    def _admit(self, *, now: float) -> None:
        self.calls += 1
        if self._deadline is None:
            self._deadline = now + self.terms.seconds
        if now >= self._deadline:
            raise InvalidField(field="episode_seconds", problem=self._too_late)
        if self._open >= MAX_OPEN:
            raise InvalidField(field="body", problem=f"the episode has {MAX_OPEN} open calls: wait for one")
        if self.calls > OTHER_CALLS * (self.terms.max_turns + 1):
            raise InvalidField(field="body", problem=f"the episode has made {self.calls} calls, too many")
