"""The engines' chat templates and tokenizers: messages to tokens, and sampled tokens to messages."""

from collections.abc import Sequence
from typing import Any

import msgspec

from mint_common.client.directory import EngineDirectory
from mint_common.generation import CallFacts
from mint_common.ids import BaseName, TenantId, new_id
from mint_common.inference.operations import ApiOperation
from services.rollout.core.door.other_apis import Prepared, Replayed


class EngineChat:
    """Renders and reads with the parts of a base's engine that answer chat.

    Raises InvalidField for what a template does not take, Overloaded and Unavailable, which are retryable,
    and other MintErrors.
    """

    def __init__(self, engines: EngineDirectory) -> None:
        self._engines = engines

    async def render(
        self,
        base: BaseName,
        messages: Sequence[dict[str, Any]],  # JSON
        template: dict[str, Any],  # JSON
        *,
        generates: bool,
        tenant_id: TenantId,
    ) -> tuple[int, ...]:
        """Return the tokens of a conversation, and with ``generates`` the beginning of an answer.

        ``template`` has the other fields of a chat request that the template reads.
        """
        body = {"messages": messages, "add_generation_prompt": generates, "max_tokens": 1, **template}
        found = await self._ask(base, ApiOperation.RENDER_CHAT, body, tenant_id)
        return tuple(msgspec.json.decode(found, type=_Rendered).token_ids)

    async def read(
        self,
        base: BaseName,
        request: dict[str, Any],  # JSON
        *,
        tenant_id: TenantId,
    ) -> dict[str, Any]:
        """Return the choice that sampled tokens are: a message, and log-probabilities with texts."""
        found = await self._ask(base, ApiOperation.READ_CHAT, request, tenant_id)
        (choice,) = msgspec.json.decode(found, type=_Read).choices
        return choice

    async def prepare(
        self,
        base: BaseName,
        operation: ApiOperation,
        request: dict[str, Any],  # JSON
        *,
        tenant_id: TenantId,
    ) -> Prepared:
        """Return a request of another API as one of chat."""
        return msgspec.json.decode(await self._ask(base, operation, request, tenant_id), type=Prepared)

    async def replay(
        self,
        base: BaseName,
        operation: ApiOperation,
        request: dict[str, Any],  # JSON
        *,
        model: str,
        tenant_id: TenantId,
    ) -> Replayed:
        """Return sampled tokens as an answer of another API, which says that ``model`` answered."""
        found = await self._ask(base, operation, request, tenant_id, model=model)
        return msgspec.json.decode(found, type=Replayed)

    async def tokenize(
        self,
        base: BaseName,
        request: dict[str, Any],  # JSON
        *,
        tenant_id: TenantId,
    ) -> bytes:
        """Return vLLM's answer to a request of `/tokenize`."""
        return await self._ask(base, ApiOperation.TOKENIZE, request, tenant_id)

    async def text(self, base: BaseName, tokens: Sequence[int], *, tenant_id: TenantId) -> str:
        """Return the text of tokens, special ones too."""
        found = await self._ask(base, ApiOperation.DETOKENIZE, {"tokens": tokens}, tenant_id)
        return msgspec.json.decode(found, type=_Text).prompt

    async def token_texts(
        self, base: BaseName, tokens: Sequence[int], *, tenant_id: TenantId
    ) -> tuple[str, ...]:
        """Return the text of each sampled token on its own; of a part of a character it is U+FFFD."""
        content = [{"token_id": token, "logprob": 0.0} for token in tokens]
        choice = {
            "index": 0,
            "token_ids": tokens,
            "finish_reason": "length",
            "logprobs": {"content": content},
        }
        request = {
            "generate_response": {"request_id": "", "prompt_token_ids": tokens[:1], "choices": [choice]},
            "chat_request": {"model": base, "messages": [{"role": "user", "content": ""}]},
        }
        found = await self._ask(base, ApiOperation.READ_CHAT, request, tenant_id)
        (read,) = msgspec.json.decode(found, type=_ReadTokens).choices
        return tuple(each.token for each in read.logprobs.content)

    async def _ask(
        self,
        base: BaseName,
        operation: ApiOperation,
        request: dict[str, Any],  # JSON
        tenant_id: TenantId,
        *,
        model: str = "",
    ) -> bytes:
        named = model or base
        facts = CallFacts(model=named, request_id=new_id("chat"), tenant_id=tenant_id, revision=None)
        body = msgspec.json.encode({**request, "model": named})
        relayed = await self._engines.serve(base, operation, body, facts)
        try:
            return await relayed.whole()
        finally:
            relayed.close()


class _Rendered(msgspec.Struct):
    token_ids: list[int]


class _Read(msgspec.Struct):
    choices: list[dict[str, Any]]  # JSON


class _Text(msgspec.Struct):
    prompt: str


class _TokenText(msgspec.Struct):
    token: str


class _TokenTexts(msgspec.Struct):
    content: list[_TokenText]


class _ReadToken(msgspec.Struct):
    logprobs: _TokenTexts


class _ReadTokens(msgspec.Struct):
    choices: list[_ReadToken]
