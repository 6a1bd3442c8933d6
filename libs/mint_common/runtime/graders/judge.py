"""Questions of score_model graders, asked of the engines as any chat request of the tenant."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from mint_common.catalog import Resolution
from mint_common.client.attempts import CallAttempts
from mint_common.client.directory import EngineDirectory
from mint_common.errors import InvalidField, MintError, NotFound, PreconditionFailed, Unavailable
from mint_common.generation import REVISION_HEADER, CallFacts
from mint_common.ids import TenantId, new_id
from mint_common.inference.operations import ApiOperation
from mint_common.names import number_or_digest
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import FairGate

QUESTIONS = 32
"""Maximum questions at engines at the same time."""
TENANT_QUESTIONS = 16
JUDGE_TOKENS = 512
"""Maximum tokens of an answer, unless the grader sets its own."""

Resolve = Callable[[TenantId, str], Awaitable[Resolution]]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionMessage:
    """A turn of a chat."""

    role: str
    content: str


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of a chat request to a scoring model; ``model`` is a base, or ``policy@N``."""

    model: str
    messages: tuple[QuestionMessage, ...]
    temperature: float
    top_p: float
    max_completion_tokens: int
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeAnswer:
    """The scoring model's answer; ``is_cut``: it reached its maximum length."""

    text: str
    is_cut: bool


MakeQuestion = Callable[[], Awaitable[Question]]
"""Makes a question when its turn comes: long ones would fill the memory while they wait."""


class Judge(Protocol):
    """Models that score. Raises MintErrors."""

    async def check(self, model: str, *, tenant_id: TenantId, field: str) -> None:
        """Raise InvalidField naming ``field`` unless the tenant may ask the model, and it never changes."""
        ...

    async def ask(self, question: MakeQuestion, *, tenant_id: TenantId) -> JudgeAnswer:
        """Return an answer, as the tenant's load; the question is made when its turn has come.

        Raises InvalidField as `check`, and what engines and ``question`` raise.
        """
        ...


class EngineJudge:
    """See `Judge`. Engines that are full or away are asked again for ``limit_seconds``, failing ones less.

    A question has its turn while it is made and asked, and none while it waits to be asked again.
    """

    def __init__(
        self, engines: EngineDirectory, resolve: Resolve, clock: Clock, *, limit_seconds: float
    ) -> None:
        self._engines = engines
        self._resolve = resolve
        self._clock = clock
        self._limit_seconds = limit_seconds
        self._turns = FairGate(QUESTIONS, limit=TENANT_QUESTIONS)

    async def check(self, model: str, *, tenant_id: TenantId, field: str) -> None:
        """Check a model."""
        await self._find(model, tenant_id, field)

    async def ask(self, question: MakeQuestion, *, tenant_id: TenantId) -> JudgeAnswer:
        """Ask until there is an answer."""
        attempts: CallAttempts | None = None
        while True:
            try:
                async with self._turns.turn(tenant_id):
                    attempts = attempts or CallAttempts(
                        began_at=self._clock.monotonic(), limit_seconds=self._limit_seconds
                    )
                    return await self._ask(await question(), tenant_id)
            except MintError as error:
                if attempts is None:
                    raise
                attempts, wait = attempts.after(error, now=self._clock.monotonic())
            await self._clock.sleep(wait)

    async def _ask(self, question: Question, tenant_id: TenantId) -> JudgeAnswer:
        target = await self._find(question.model, tenant_id, "grader.model")
        facts = CallFacts(
            model=question.model, request_id=new_id("judge"), tenant_id=tenant_id, revision=target.revision
        )
        relayed = await self._engines.serve(
            target.base, ApiOperation.CHAT, msgspec.json.encode(question), facts
        )
        try:
            expected = target.revision.digest if target.revision else f"base:{target.base}"
            found = relayed.headers.get(REVISION_HEADER, "nothing")
            if found != expected:
                what = "the revision that an engine answered with"
                raise PreconditionFailed(what=what, found=found, expected=expected)
            return _read(await relayed.whole())
        finally:
            relayed.close()

    async def _find(self, model: str, tenant_id: TenantId, field: str) -> Resolution:
        _, at, selector = model.partition("@")
        problem = "is an alias or a moving name: name a base, or a revision as policy@N"
        if at and number_or_digest(selector) is None:
            raise InvalidField(field=field, problem=problem)
        try:
            target = await self._resolve(tenant_id, model)
        except NotFound as error:
            raise InvalidField(field=field, problem=f"is not a model served here: {error}") from error
        if not at and target.revision is not None:
            raise InvalidField(field=field, problem=problem)
        return target


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def _read(answer: bytes) -> JudgeAnswer:
    try:
        choice = msgspec.json.decode(answer, type=_Completion).choices[0]
    except (msgspec.DecodeError, IndexError) as error:
        raise Unavailable(what="an engine", problem=f"unreadable answer: {error}") from error
    return JudgeAnswer(text=choice.message.content or "", is_cut=choice.finish_reason == "length")
