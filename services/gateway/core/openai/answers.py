"""From the chunks of the engine to OpenAI answers.

Choice ``c`` of prompt ``p`` has index ``p * n + c``. Prompt tokens are counted once per prompt, completion
tokens over all choices, the stop token included, as the engine streams it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.errors import MintError, Unavailable
from mint_common.generation import Delta, Finished, GenerationChunk, Started
from mint_common.ids import Digest
from services.gateway.core.json_types import JsonObject
from services.gateway.core.openai.dialects import Dialect
from services.gateway.core.openai.logprobs import read_positions


class WrongRevision(MintError):
    """The engine answered as {found}, but {expected} was asked for: the answer is withheld."""

    code = "wrong_revision"
    http_status = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseMeta:
    """What every object of an answer repeats. ``served`` is the digest that answers, or ``base:<name>``."""

    answer_id: str
    created: int
    model: str
    served: str


def served_by(starts: Sequence[Started], *, wished: Digest | None, base: str) -> str:
    """Return what answers, as the engines say. Raises WrongRevision when it is not what was asked for."""
    expected = _served_name(wished, base)
    for start in starts:
        found = _served_name(start.revision, base)
        if found != expected:
            raise WrongRevision(found=found, expected=expected)
    return expected


def _served_name(digest: Digest | None, base: str) -> str:
    return f"base:{base}" if digest is None else digest


def check_unbroken(chunk: GenerationChunk) -> None:
    """Refuse a completion that the engine gave up: half a text must not look like a whole one."""
    if isinstance(chunk, Finished) and chunk.reason == "abort":
        raise Unavailable(what="the engine", problem="it aborted the generation")


class Usage:
    """Counts tokens while an answer runs."""

    def __init__(self, starts: Sequence[Started]) -> None:
        self._prompt_tokens = sum(len(start.prompt_tokens) for start in starts)
        self._completion_tokens = 0

    def count(self, delta: Delta) -> None:
        """Add the tokens of a delta."""
        self._completion_tokens += len(delta.tokens)

    def to_json(self) -> JsonObject:
        """Return the ``usage`` object."""
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._prompt_tokens + self._completion_tokens,
        }


class WholeAnswer:
    """Gathers the chunks of an answer that is sent in one piece."""

    def __init__(self, dialect: Dialect, starts: Sequence[Started], *, n: int) -> None:
        self._dialect = dialect
        self._n = n
        self._usage = Usage(starts)
        self._texts: list[list[str]] = [[] for _ in range(n * len(starts))]
        self._logprobs = [dialect.gather() for _ in self._texts]
        self._reasons = ["stop" for _ in self._texts]

    def add(self, prompt_index: int, chunk: GenerationChunk) -> None:
        """Take the next chunk of a prompt's stream."""
        if isinstance(chunk, Delta):
            index = prompt_index * self._n + chunk.index
            self._texts[index].append(chunk.text)
            logprobs = self._logprobs[index]
            if logprobs is not None:
                logprobs.add(read_positions(chunk))
            self._usage.count(chunk)
        elif isinstance(chunk, Finished):
            self._reasons[prompt_index * self._n + chunk.index] = chunk.reason

    def to_json(self, head: ResponseMeta) -> JsonObject:
        """Return the answer."""
        rows = zip(self._texts, self._logprobs, self._reasons, strict=True)
        choices = [
            self._dialect.whole(at, "".join(text), logprobs, why)
            for at, (text, logprobs, why) in enumerate(rows)
        ]
        return {
            **_head_json(head, self._dialect.whole_object),
            "choices": choices,
            "usage": self._usage.to_json(),
        }


class StreamedAnswer:
    """Turns chunks into the parts of a streamed answer, each as soon as it can be sent."""

    def __init__(
        self, dialect: Dialect, starts: Sequence[Started], *, n: int, head: ResponseMeta, include_usage: bool
    ) -> None:
        self._dialect = dialect
        self._n = n
        self._usage = Usage(starts)
        self._offsets = [0] * (n * len(starts))
        self._include_usage = include_usage
        self._head = _head_json(head, dialect.part_object)

    def opening(self) -> list[JsonObject]:
        """Return the parts that go before any text."""
        choices = [self._dialect.opening(index) for index in range(len(self._offsets))]
        return [self._wrap(choice) for choice in choices if choice is not None]

    def parts(self, prompt_index: int, chunk: GenerationChunk) -> list[JsonObject]:
        """Return the parts that a chunk of a prompt's stream leads to."""
        if isinstance(chunk, Delta):
            index = prompt_index * self._n + chunk.index
            self._usage.count(chunk)
            positions = read_positions(chunk)
            if not chunk.text and not positions:
                return []
            part = self._dialect.part(index, chunk.text, positions, self._offsets[index])
            self._offsets[index] += sum(len(position.text) for position in positions)
            return [self._wrap(part)]
        if isinstance(chunk, Finished):
            return [self._wrap(self._dialect.closing(prompt_index * self._n + chunk.index, chunk.reason))]
        return []

    def closing(self) -> list[JsonObject]:
        """Return the parts that go after all choices: the usage, when it was asked for."""
        return [{**self._head, "choices": [], "usage": self._usage.to_json()}] if self._include_usage else []

    def _wrap(self, choice: JsonObject) -> JsonObject:
        usage: JsonObject = {"usage": None} if self._include_usage else {}
        return {**self._head, "choices": [choice], **usage}


def _head_json(head: ResponseMeta, kind: str) -> JsonObject:
    return {
        "id": head.answer_id,
        "object": kind,
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.served,
    }
