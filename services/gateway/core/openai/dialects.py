"""The two answer shapes of the OpenAI API: text completions and chat completions, whole and in parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.gateway.core.json_types import JsonObject
from services.gateway.core.openai.logprobs import ChatLogprobs, CompletionLogprobs, Position


class Logprobs(Protocol):
    """The log-probabilities of a choice, gathered."""

    def add(self, positions: Sequence[Position]) -> None:
        """Take the next positions."""
        ...

    def to_json(self) -> JsonObject:
        """Return all."""
        ...


class Dialect(Protocol):
    """How one endpoint writes a choice. ``logprobs`` is None when none were asked for."""

    @property
    def id_prefix(self) -> str:
        """Return how ids of answers begin."""
        ...

    @property
    def whole_object(self) -> str:
        """Return the ``object`` of a whole answer."""
        ...

    @property
    def part_object(self) -> str:
        """Return the ``object`` of a part."""
        ...

    def gather(self) -> Logprobs | None:
        """Return what gathers a choice's log-probabilities, when some were asked for."""
        ...

    def whole(self, index: int, text: str, logprobs: Logprobs | None, reason: str) -> JsonObject:
        """Return a complete choice."""
        ...

    def opening(self, index: int) -> JsonObject | None:
        """Return the choice of the part that goes first, if the endpoint has one."""
        ...

    def part(self, index: int, text: str, positions: Sequence[Position], offset: int) -> JsonObject:
        """Return the choice of a part with more text; ``offset`` is the length of the text before."""
        ...

    def closing(self, index: int, reason: str) -> JsonObject:
        """Return the choice of a part that says why the text ended."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionDialect:
    """``/v1/completions``."""

    logprobs: int | None
    id_prefix: str = "cmpl"
    whole_object: str = "text_completion"
    part_object: str = "text_completion"

    def gather(self) -> CompletionLogprobs | None:
        """Return what gathers a choice's log-probabilities."""
        return None if self.logprobs is None else CompletionLogprobs(top=self.logprobs)

    def whole(self, index: int, text: str, logprobs: Logprobs | None, reason: str) -> JsonObject:
        """Return a complete choice."""
        return self._choice(index, text, logprobs, reason)

    def opening(self, index: int) -> None:  # noqa: ARG002  (part of the protocol)
        """Return nothing: the first text opens a completion."""
        return

    def part(self, index: int, text: str, positions: Sequence[Position], offset: int) -> JsonObject:
        """Return the choice of a part with more text."""
        logprobs = None if self.logprobs is None else CompletionLogprobs(top=self.logprobs, offset=offset)
        if logprobs is not None:
            logprobs.add(positions)
        return self._choice(index, text, logprobs, None)

    def closing(self, index: int, reason: str) -> JsonObject:
        """Return the choice of the last part."""
        return {"index": index, "text": "", "logprobs": None, "finish_reason": reason}

    @staticmethod
    def _choice(index: int, text: str, logprobs: Logprobs | None, reason: str | None) -> JsonObject:
        told = None if logprobs is None else logprobs.to_json()
        return {"index": index, "text": text, "logprobs": told, "finish_reason": reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatDialect:
    """``/v1/chat/completions``."""

    logprobs: int | None
    id_prefix: str = "chatcmpl"
    whole_object: str = "chat.completion"
    part_object: str = "chat.completion.chunk"

    def gather(self) -> ChatLogprobs | None:
        """Return what gathers a choice's log-probabilities."""
        return None if self.logprobs is None else ChatLogprobs(top=self.logprobs)

    def whole(self, index: int, text: str, logprobs: Logprobs | None, reason: str) -> JsonObject:
        """Return a complete choice."""
        message = {"role": "assistant", "content": text, "refusal": None}
        told = None if logprobs is None else logprobs.to_json()
        return {"index": index, "message": message, "logprobs": told, "finish_reason": reason}

    def opening(self, index: int) -> JsonObject:
        """Return the choice that names the role."""
        return self._part(index, {"role": "assistant", "content": ""}, None, None)

    def part(self, index: int, text: str, positions: Sequence[Position], offset: int) -> JsonObject:  # noqa: ARG002  (chat logprobs carry no offsets)
        """Return the choice of a part with more text."""
        logprobs = self.gather()
        if logprobs is not None:
            logprobs.add(positions)
        return self._part(index, {"content": text}, None if logprobs is None else logprobs.to_json(), None)

    def closing(self, index: int, reason: str) -> JsonObject:
        """Return the choice of the last part."""
        return self._part(index, {}, None, reason)

    @staticmethod
    def _part(index: int, delta: JsonObject, logprobs: JsonObject | None, reason: str | None) -> JsonObject:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
