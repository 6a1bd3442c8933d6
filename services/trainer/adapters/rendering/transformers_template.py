"""A tokenizer of transformers as a `ChatTemplate`."""

import math
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import TemplateError
from transformers import AutoTokenizer

from mint_common.datasets import RowProblem
from mint_common.errors import InvalidField
from services.trainer.core.rendering.template import JsonObject, OutOfTime

_SHOWN = 200
_PROBE: list[JsonObject] = [
    {"role": "user", "content": "probe"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "probe", "arguments": {"probe": 1}}}],
    },
]


class TransformersTemplate:
    """See `services.trainer.core.rendering.template.ChatTemplate`. Not safe for concurrent use.

    It is out of time after ``deadline``, in seconds of ``now``. A call that has begun is not cut.
    """

    def __init__(
        self,
        tokenizer: Any,  # transformers' own
        stop_ids: Sequence[int] = (),
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deadline = math.inf
        self._now = now
        self._tokenizer = tokenizer
        self._stop_ids = frozenset({int(tokenizer.eos_token_id), *stop_ids})

    @property
    def stop_ids(self) -> frozenset[int]:
        """Return the tokens that end an answer."""
        return self._stop_ids

    @property
    def eos_id(self) -> int:
        """Return the token that ends an answer whose template has no end."""
        return int(self._tokenizer.eos_token_id)

    @property
    def bos_id(self) -> int | None:
        """Return the token that begins a text."""
        found = self._tokenizer.bos_token_id
        return None if found is None else int(found)

    @cached_property
    def takes_arguments_as_text(self) -> bool:
        """Return whether the template renders arguments only if they are a text."""
        written = '"probe":1'
        as_object = self._render(_PROBE, None, begins_answer=False).replace(" ", "")
        if written in as_object:
            return False
        call = _PROBE[1]["tool_calls"][0]
        text = {**call, "function": {"name": "probe", "arguments": '{"probe": 1}'}}
        probe = [_PROBE[0], {**_PROBE[1], "tool_calls": [text]}]
        return written in self._render(probe, None, begins_answer=False).replace(" ", "")

    def render(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject] | None, *, begins_answer: bool
    ) -> str:
        """Return a conversation as text."""
        self._check_time()
        if not self._tokenizer.chat_template:
            raise RowProblem(
                "no_chat_template", "the base has no chat template: train on prompt and completion"
            )
        try:
            return self._apply(messages, tools, begins_answer=begins_answer)
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            problem = f"the base's chat template refuses it: {str(error)[:_SHOWN]}"
            raise RowProblem("template_refused", problem) from error

    def encode_rendered(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a rendered text."""
        self._check_time()
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a plain text."""
        self._check_time()
        return tuple(self._tokenizer.encode(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        self._check_time()
        text: str = self._tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def _check_time(self) -> None:
        if self._now() >= self.deadline:
            raise OutOfTime

    def _render(self, messages: Sequence[JsonObject], tools: None, *, begins_answer: bool) -> str:
        try:
            return self.render(messages, tools, begins_answer=begins_answer)
        except RowProblem:
            return ""

    def _apply(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject] | None, *, begins_answer: bool
    ) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tools=tools, add_generation_prompt=begins_answer, tokenize=False
        )
        return text


class _GenerationConfig(msgspec.Struct):
    eos_token_id: int | list[int] | None = None


def open_template(base_dir: Path) -> TransformersTemplate:
    """Open the tokenizer of a base's folder. Raises InvalidField when it has no end token."""
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    if tokenizer.eos_token_id is None:
        raise InvalidField(field="tokenizer", problem="it has no eos token, so no answer would end")
    file = base_dir / "generation_config.json"
    config = msgspec.json.decode(file.read_bytes(), type=_GenerationConfig) if file.is_file() else None
    ends = config.eos_token_id if config else None
    return TransformersTemplate(tokenizer, ends if isinstance(ends, list) else [] if ends is None else [ends])
