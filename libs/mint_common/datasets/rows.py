"""Rows as types, one for each format, and checks beyond the types."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from mint_common.datasets.formats import Format

T = TypeVar("T")
Role = Literal["system", "developer", "user", "assistant", "tool"]


MAX_DEPTH = 64
"""Maximum nesting depth of objects and lists."""


class RowProblem(Exception):
    """A problem of a row: a stable code, and a printable message that names the field."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ContentPart(Struct, frozen=True):
    """A part of a message's content; only texts are trained on."""

    type: str
    text: str = ""


class Function(Struct, frozen=True, forbid_unknown_fields=True):
    """A function and its arguments: an object, or the JSON text of one as OpenAI's API has it."""

    name: str
    arguments: str | dict[str, Any]  # JSON


class ToolCall(Struct, frozen=True, forbid_unknown_fields=True):
    """A call that an assistant makes."""

    function: Function
    type: Literal["function"] = "function"
    id: str | None = None


class RowMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """One message; ``weight`` 0 leaves an assistant's out of training."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    weight: Annotated[int, Meta(ge=0, le=1)] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = None


class ToolFunction(Struct, frozen=True, forbid_unknown_fields=True):
    """A function that may be called; ``parameters`` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None  # JSON
    strict: bool | None = None


class Tool(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool that the assistant is offered."""

    function: ToolFunction
    type: Literal["function"] = "function"


Messages = Annotated[list[RowMessage], Meta(min_length=1)]
TextOrMessages = str | Messages
Tools = list[Tool] | str | None
"""A text is the JSON of the list, as TRL has it."""


class ChatRow(Struct, frozen=True, forbid_unknown_fields=True):
    """`Format.CHAT`."""

    messages: Messages
    tools: Tools = None
    parallel_tool_calls: bool | None = None


class PairInput(Struct, frozen=True, forbid_unknown_fields=True):
    """The conversation that both outputs of a pair answer."""

    messages: Messages
    tools: Tools = None
    parallel_tool_calls: bool | None = None


class PairRow(Struct, frozen=True, forbid_unknown_fields=True):
    """`Format.PAIRS`."""

    input: PairInput
    preferred_output: Messages
    non_preferred_output: Messages


class CompletionRow(Struct, frozen=True, forbid_unknown_fields=True):
    """`Format.COMPLETION`."""

    prompt: TextOrMessages
    completion: TextOrMessages
    tools: Tools = None


class PreferenceRow(Struct, frozen=True, forbid_unknown_fields=True):
    """`Format.PREFERENCE`."""

    prompt: TextOrMessages
    chosen: TextOrMessages
    rejected: TextOrMessages
    tools: Tools = None


class KtoRow(Struct, frozen=True, forbid_unknown_fields=True):
    """`Format.KTO`."""

    prompt: TextOrMessages
    completion: TextOrMessages
    label: bool
    tools: Tools = None


class TextRow(Struct, frozen=True, forbid_unknown_fields=True):
    """`Format.TEXT`."""

    text: Annotated[str, Meta(min_length=1)]


class RewardRow(Struct, frozen=True):
    """`Format.REWARD`; its other fields are for graders."""

    messages: Messages
    tools: Tools = None


Row = ChatRow | PairRow | CompletionRow | PreferenceRow | KtoRow | TextRow | RewardRow
TYPES: Mapping[Format, type[Row]] = {
    Format.CHAT: ChatRow,
    Format.COMPLETION: CompletionRow,
    Format.PAIRS: PairRow,
    Format.PREFERENCE: PreferenceRow,
    Format.KTO: KtoRow,
    Format.TEXT: TextRow,
    Format.REWARD: RewardRow,
}


def check_row(row: Row) -> None:
    """Check what a row's type cannot express. Raises RowProblem."""
    if not isinstance(row, TextRow):
        _check_tools(row.input.tools if isinstance(row, PairRow) else row.tools)
    match row:
        case ChatRow():
            _check_messages("messages", row.messages, may_weigh=True)
            _check_trains(row.messages)
        case RewardRow():
            _check_messages("messages", row.messages)
        case PairRow():
            _check_messages("input.messages", row.input.messages)
            _check_output("preferred_output", row.preferred_output)
            _check_output("non_preferred_output", row.non_preferred_output)
        case CompletionRow() | KtoRow():
            _check_answers(row.prompt, {"completion": row.completion})
        case PreferenceRow():
            _check_answers(row.prompt, {"chosen": row.chosen, "rejected": row.rejected})
        case TextRow():
            pass


def _check_trains(messages: Sequence[RowMessage]) -> None:
    if messages[-1].role != "assistant":
        raise RowProblem("no_answer", f"the last message is of role {messages[-1].role}, not assistant")
    if all(message.weight == 0 for message in messages if message.role == "assistant"):
        raise RowProblem("nothing_trained", "every assistant message has weight 0")


def _check_answers(prompt: TextOrMessages, answers: Mapping[str, TextOrMessages]) -> None:
    if isinstance(prompt, list):
        _check_messages("prompt", prompt)
    for name, answer in answers.items():
        if isinstance(answer, str) != isinstance(prompt, str):
            raise RowProblem("invalid_value", f"prompt and {name} must both be texts or both be messages")
        if isinstance(answer, list):
            _check_output(name, answer)
        elif not answer:
            raise RowProblem("no_answer", f"{name} is empty")


def _check_output(name: str, messages: Sequence[RowMessage]) -> None:
    for index, message in enumerate(messages):
        if message.role not in {"assistant", "tool"}:
            problem = f"{name}[{index}].role is {message.role}: an output has messages of assistant and tool"
            raise RowProblem("invalid_value", problem)
    if messages[-1].role != "assistant":
        raise RowProblem("no_answer", f"the last message of {name} is not the assistant's")
    _check_messages(name, messages)


def _check_messages(name: str, messages: Sequence[RowMessage], *, may_weigh: bool = False) -> None:
    for index, message in enumerate(messages):
        if message.content.__class__ is str and message.role == "user" and message.weight is None:
            continue  # most messages
        _check_message(f"{name}[{index}]", message, may_weigh=may_weigh)


def _check_message(name: str, message: RowMessage, *, may_weigh: bool) -> None:
    is_assistant = message.role == "assistant"
    if message.weight is not None and not (may_weigh and is_assistant):
        raise RowProblem(
            "unknown_field", f"{name} has a weight: only assistant messages of chat rows have one"
        )
    if message.tool_calls and not is_assistant:
        raise RowProblem("unknown_field", f"{name} has tool_calls: only assistant messages have them")
    if isinstance(message.content, list):
        _check_parts(name, message.content)
    if message.content is None and not message.tool_calls:
        raise RowProblem("missing_field", f"{name}.content is missing")
    for call in message.tool_calls or ():
        _check_arguments(name, call)


def _check_parts(name: str, parts: Iterable[ContentPart]) -> None:
    for index, part in enumerate(parts):
        if part.type != "text":
            problem = f"{name}.content[{index}] is of type {part.type[:40]!r}: only text is trained on"
            raise RowProblem("unsupported_content", problem)


def _check_arguments(name: str, call: ToolCall) -> None:
    if isinstance(call.function.arguments, str):
        try:
            arguments_of(call)
        except ValueError:
            problem = f"{name}: the arguments of {call.function.name[:40]!r} are no JSON object"
            raise RowProblem("invalid_arguments", problem) from None


def arguments_of(call: ToolCall) -> dict[str, Any]:  # JSON
    """Return a call's arguments as an object, which is how chat templates take them. Raises ValueError."""
    arguments = call.function.arguments
    return _decoded(arguments, dict[str, Any]) if isinstance(arguments, str) else arguments


def _check_tools(tools: Tools) -> None:
    if isinstance(tools, str):
        try:
            tools_of(tools)
        except ValueError:
            raise RowProblem("invalid_value", "tools is a text but not a JSON list of tools") from None


def tools_of(tools: Tools) -> list[Tool]:
    """Return the tools as a list, also from a text. Raises ValueError."""
    return _decoded(tools, list[Tool]) if isinstance(tools, str) else tools or []


def is_deep(text: str | bytes, found: object) -> bool:
    """Return whether the JSON of a text is too deep."""
    # Counting brackets is quick; only a text with many of them is walked.
    count = (
        text.count("{") + text.count("[") if isinstance(text, str) else text.count(b"{") + text.count(b"[")
    )
    if count <= MAX_DEPTH:
        return False
    level: list[Any] = [found]  # JSON
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _decoded(text: str, kind: type[T]) -> T:
    try:
        found = msgspec.json.decode(text)
        if is_deep(text, found):
            raise ValueError("too deep")
        return msgspec.convert(found, kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error
