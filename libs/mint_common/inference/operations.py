"""The operations of the inference APIs, as the gateway asks for them and the loader answers them."""

from enum import StrEnum
from typing import Self, cast

from mint_common.errors import NotFound


class ApiOperation(StrEnum):
    """An operation: its name on the internal wire and its public path."""

    path: str

    def __new__(cls, name: str, path: str) -> Self:
        """Make a member whose value is its name."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.path = path
        return member

    CHAT = "chat", "/v1/chat/completions"
    CHAT_TOKENS = "chat_tokens", "/v1/chat/completions/tokens"
    CHAT_BATCH = "chat_batch", "/v1/chat/completions/batch"
    RENDER_CHAT = "render_chat", "/v1/chat/completions/render"
    READ_CHAT = "read_chat", "/v1/chat/completions/derender"
    COMPLETION = "completion", "/v1/completions"
    RESPONSE = "response", "/v1/responses"
    MESSAGE = "message", "/v1/messages"
    COUNT_TOKENS = "count_tokens", "/v1/messages/count_tokens"
    PREPARE_RESPONSE = "prepare_response", "/v1/responses/prepare"
    REPLAY_RESPONSE = "replay_response", "/v1/responses/replay"
    PREPARE_MESSAGE = "prepare_message", "/v1/messages/prepare"
    REPLAY_MESSAGE = "replay_message", "/v1/messages/replay"
    TOKENIZE = "tokenize", "/tokenize"
    DETOKENIZE = "detokenize", "/detokenize"
    TOKENIZER_INFO = "tokenizer_info", "/tokenizer_info"
    GENERATE = "generate", "/inference/v1/generate"

    @classmethod
    def named(cls, name: str) -> "ApiOperation":
        """Return the operation of a name. Raises NotFound."""
        found = cls._value2member_map_.get(name)
        if found is None:
            raise NotFound(kind="operation", name=name[:100])
        return cast(ApiOperation, found)

    @classmethod
    def at(cls, path: str) -> "ApiOperation":
        """Return the operation of a public path."""
        return next(each for each in cls if each.path == path)

    @property
    def generates(self) -> bool:
        """Return whether the engine generates the answer, at the revision that the model names."""
        return self not in _WITHOUT_ENGINE

    @property
    def is_chat(self) -> bool:
        """Return whether the request has the fields of OpenAI's chat."""
        return self in _CHATS

    @property
    def is_anthropic(self) -> bool:
        """Return whether its errors have the shape of Anthropic's API."""
        return self in _ANTHROPIC


_CHATS = {
    ApiOperation.CHAT,
    ApiOperation.CHAT_TOKENS,
    ApiOperation.CHAT_BATCH,
    ApiOperation.RENDER_CHAT,
}
_ANTHROPIC = {ApiOperation.MESSAGE, ApiOperation.COUNT_TOKENS, ApiOperation.PREPARE_MESSAGE}
_WITHOUT_ENGINE = {
    ApiOperation.RENDER_CHAT,
    ApiOperation.READ_CHAT,
    ApiOperation.PREPARE_RESPONSE,
    ApiOperation.REPLAY_RESPONSE,
    ApiOperation.PREPARE_MESSAGE,
    ApiOperation.REPLAY_MESSAGE,
    ApiOperation.COUNT_TOKENS,
    ApiOperation.TOKENIZE,
    ApiOperation.DETOKENIZE,
    ApiOperation.TOKENIZER_INFO,
}
