"""Formats of rows, the methods that train on them, and the bounds of a job on rows."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal


class Format(StrEnum):
    """Format of a file's rows; all rows of a file have the same one."""

    CHAT = "chat"
    """``{messages, tools?, parallel_tool_calls?}`` that ends with the assistant: OpenAI's, also TRL's."""
    COMPLETION = "completion"
    """``{prompt, completion}``: texts, or lists of messages."""
    PAIRS = "pairs"
    """``{input: {messages, ...}, preferred_output, non_preferred_output}``: OpenAI's preferences."""
    PREFERENCE = "preference"
    """``{prompt, chosen, rejected}``: TRL's preferences, as texts or lists of messages."""
    KTO = "kto"
    """``{prompt, completion, label}``: an answer that is wanted (true) or not."""
    TEXT = "text"
    """``{text}``: every token is trained."""
    REWARD = "reward"
    """``{messages, ...}`` that ends with the user; graders read the other fields (OpenAI's RFT)."""


Method = Literal["sft", "dpo", "kto", "rft"]
"""Training method of a job on rows."""
FORMATS: Mapping[Method, frozenset[Format]] = {
    "sft": frozenset({Format.CHAT, Format.COMPLETION, Format.TEXT}),
    "dpo": frozenset({Format.PAIRS, Format.PREFERENCE}),
    "kto": frozenset({Format.KTO}),
    "rft": frozenset({Format.REWARD}),
}
"""The formats that each method trains on."""
MAX_EPOCHS = 50
"""Maximum number of times that a job trains on each row."""
MAX_BATCH = 256
"""The most rows of a step."""


def method_of(kind: Format) -> Method:
    """Return the method that trains on a format."""
    return next(method for method, kinds in FORMATS.items() if kind in kinds)
