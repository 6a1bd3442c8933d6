"""A template that stops at a deadline."""

import time
from collections.abc import Callable, Sequence

from services.trainer.core.rendering.template import ChatTemplate, JsonObject, OutOfTime


class TimedTemplate:
    """See `services.trainer.core.rendering.template.ChatTemplate`. Out of time after ``deadline``.

    ``deadline`` is in seconds of ``now``. A call that has begun is not cut.
    """

    def __init__(
        self, template: ChatTemplate, *, deadline: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._template = template
        self._deadline = deadline
        self._now = now

    @property
    def stop_ids(self) -> frozenset[int]:
        """Return the tokens that end an answer."""
        return self._template.stop_ids

    @property
    def eos_id(self) -> int:
        """Return the token that ends an answer whose template has no end."""
        return self._template.eos_id

    @property
    def bos_id(self) -> int | None:
        """Return the token that begins a text."""
        return self._template.bos_id

    @property
    def takes_arguments_as_text(self) -> bool:
        """Return whether arguments appear in what is rendered only as a text."""
        return self._template.takes_arguments_as_text

    def render(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject] | None, *, begins_answer: bool
    ) -> str:
        """Return a conversation as text."""
        self._check_time()
        return self._template.render(messages, tools, begins_answer=begins_answer)

    def encode_rendered(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a rendered text."""
        self._check_time()
        return self._template.encode_rendered(text)

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a plain text."""
        self._check_time()
        return self._template.encode_plain(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        self._check_time()
        return self._template.decode(tokens)

    def _check_time(self) -> None:
        if self._now() >= self._deadline:
            raise OutOfTime
