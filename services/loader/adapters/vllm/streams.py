"""Answers of vLLM as they come: deltas and ends, log-probabilities, routes, and errors in our words."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from typing import Any, Literal

from mint_common.errors import EngineRestarting, InvalidField, MintError, NonFiniteOutput, Unavailable
from mint_common.generation import RESTART_SECONDS, Delta, Finished, TokenAlternative
from mint_common.ids import Digest
from services.loader.adapters.vllm.repairs.non_finite import NON_FINITE

_REASONS: Mapping[str, Literal["stop", "length", "abort"]] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
}

_PIECE_ENTRIES = 336
"""Most log-probabilities that are turned over in one go: 16 tokens with 20 others each, about 1 ms."""


class VllmStream:
    """One request on vLLM."""

    def __init__(
        self,
        outputs: Any,
        *,
        lora_request: Any,
        alternatives: int | None,
        start: AbstractAsyncContextManager[None],
        turn: asyncio.Lock,
    ) -> None:
        self._outputs = outputs
        self._lora_request = lora_request
        self._alternatives = alternatives
        self._start = start
        self._turn = turn

    @property
    def served(self) -> Digest | None:
        """Return the name in the LoRARequest that vLLM was given."""
        return Digest(self._lora_request.lora_name) if self._lora_request else None

    async def steps(self) -> AsyncGenerator[Sequence[Delta | Finished], None]:
        """Yield the outputs of each step, a large one in pieces. The request is started in its turn."""
        async with self._start:
            pass  # vLLM is given the request in the same step, which is the turn's
        with translated():
            async with aclosing(self._outputs) as outputs:
                async for output in outputs:
                    assert output.lora_request == self._lora_request, "vLLM answered with another adapter"
                    parts = (part for completion in output.outputs for part in self._parts(completion))
                    pieces, is_large = _pieces(parts), self._is_large(output)
                    while piece := await self._next_of(pieces, is_large=is_large):
                        yield piece

    def _is_large(self, output: Any) -> bool:
        tokens = sum(len(completion.token_ids) for completion in output.outputs)
        return self._alternatives is not None and tokens * (1 + self._alternatives) > _PIECE_ENTRIES

    async def _next_of(
        self, pieces: Iterator[list[Delta | Finished]], *, is_large: bool
    ) -> list[Delta | Finished] | None:
        """Return the next piece. Of all large outputs one piece is made in a turn of the event loop."""
        if not is_large:
            return next(pieces, None)
        async with self._turn:
            await asyncio.sleep(0)
            return next(pieces, None)

    def _parts(self, completion: Any) -> Iterator[Delta | Finished]:
        tokens, text = tuple(completion.token_ids), completion.text
        positions = len(tokens) if not self._alternatives else _PIECE_ENTRIES // (1 + self._alternatives)
        for start in range(0, len(tokens), max(positions, 1)):
            yield self._delta(completion, slice(start, start + positions), text)
            text = ""
        if text:  # what was held back for a stop string that did not come
            yield Delta(index=completion.index, text=text, tokens=())
        if completion.finish_reason is not None:
            reason = _REASONS.get(completion.finish_reason)
            if reason is None:
                raise unanswered(completion, served=self.served)
            yield Finished(index=completion.index, reason=reason)

    def _delta(self, completion: Any, part: slice, text: str) -> Delta:
        tokens = tuple(completion.token_ids[part])
        if self._alternatives is None:
            return Delta(index=completion.index, text=text, tokens=tokens)
        flat, count = completion.logprobs, self._alternatives
        starts, ends = flat.start_indices[part], flat.end_indices[part]
        return Delta(
            index=completion.index,
            text=text,
            tokens=tokens,
            logprobs=tuple(flat.logprobs[at] for at in starts),
            alternatives=tuple(
                likeliest(flat, start, end, count) for start, end in zip(starts, ends, strict=True)
            )
            if count
            else (),
            token_texts=tuple(flat.decoded_tokens[at] or "" for at in starts),
        )


def _pieces(parts: Iterator[Delta | Finished]) -> Iterator[list[Delta | Finished]]:
    """Yield parts together, as many as are turned over in one go."""
    piece: list[Delta | Finished] = []
    entries = 0
    for part in parts:
        piece.append(part)
        entries += _entries(part)
        if entries >= _PIECE_ENTRIES:
            yield piece
            piece, entries = [], 0
    if piece:
        yield piece


def _entries(part: Delta | Finished) -> int:
    """Return about how many values a part has."""
    return 1 if isinstance(part, Finished) else 1 + sum(map(len, part.alternatives)) + len(part.logprobs)


def likeliest(flat: Any, start: int, end: int, count: int) -> tuple[TokenAlternative, ...]:
    """Return the likeliest tokens of a position, the likeliest first.

    vLLM gives a position its own token first, then the likeliest ones. Where it has joined the outputs of two
    steps, for a reader that was slow, it names none twice: the own token may then be one of the likeliest.
    """
    is_joined = end - start == count
    rows = range(start if is_joined else start + 1, end)
    found = [
        TokenAlternative(
            token=flat.token_ids[at], text=flat.decoded_tokens[at] or "", logprob=flat.logprobs[at]
        )
        for at in rows
    ]
    if is_joined:
        found.sort(key=lambda one: -one.logprob)
    return tuple(found)


def unanswered(completion: Any, *, served: Digest | None) -> MintError:
    """Return why the engine ended a completion: its adapter has no finite numbers, or it is our fault."""
    if completion.stop_reason != NON_FINITE:
        return Unavailable(what="the engine", problem=f"it ended with {completion.finish_reason}")
    if served is None:
        return Unavailable(what="the base", problem="it computes numbers that are not finite")
    return NonFiniteOutput(digest=served)


@contextmanager
def translated() -> Iterator[None]:
    """Turn vLLM's errors into ours."""
    from vllm.exceptions import VLLMClientError

    try:
        with lost_engine():
            yield
    except VLLMClientError as error:
        raise InvalidField(field="request", problem=str(error)) from error


@contextmanager
def lost_engine(*, refuses: bool = False) -> Iterator[None]:
    """Turn vLLM's errors of an engine that fails into ours.

    ``refuses``: a wrong value is the request's fault, and raised as it is.
    """
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    try:
        yield
    except EngineDeadError as error:
        raise dead_engine() from error
    except EngineGenerateError as error:
        if refuses and isinstance(error.__cause__, ValueError | TypeError | OverflowError):
            raise error.__cause__ from error
        raise Unavailable(what="the engine", problem=str(error.__cause__ or error)) from error


def dead_engine() -> EngineRestarting:
    """Return the error of an engine whose process has ended: its loader ends too, and is started again."""
    return EngineRestarting(retry_after_seconds=RESTART_SECONDS)
