"""A base's tokenizer as rendering uses it."""

from collections.abc import Sequence
from typing import Any, Protocol

JsonObject = dict[str, Any]


class OutOfTime(Exception):
    """The time of a request is over: the remaining rows are left out."""


class ChatTemplate(Protocol):
    """A tokenizer with a chat template. Texts are encoded as an engine encodes them.

    Each method may raise OutOfTime, and `takes_arguments_as_text` too, which renders when it is first read.
    """

    @property
    def stop_ids(self) -> frozenset[int]:
        """Return the tokens that end an answer."""
        ...

    @property
    def eos_id(self) -> int:
        """Return the token that ends an answer whose template has no end."""
        ...

    @property
    def bos_id(self) -> int | None:
        """Return the token that begins a text, if there is one."""
        ...

    @property
    def takes_arguments_as_text(self) -> bool:
        """Return whether the template writes a tool call's arguments only when they are a JSON text."""
        ...

    def render(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject] | None, *, begins_answer: bool
    ) -> str:
        """Return a conversation as text; ``begins_answer`` adds the beginning of an answer.

        Raises RowProblem when the template refuses.
        """
        ...

    def encode_rendered(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a rendered text, with no special token that is not in it."""
        ...

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a plain text, with the special tokens that the tokenizer puts around one."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        ...
