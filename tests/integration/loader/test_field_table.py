"""The table of fields against vLLM's request models, and against what the official SDKs can send."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import openai.types.chat.completion_create_params as openai_chat
import openai.types.completion_create_params as openai_completions
import openai.types.responses.response_create_params as openai_responses
import pytest
from anthropic.types import message_count_tokens_params, message_create_params

from mint_common.inference.fields import FieldRules
from mint_common.inference.operations import ApiOperation
from services.gateway.core.openai.token_generation import GENERATE, SAMPLING_PARAMS
from services.loader.adapters.vllm.openai.replay import replayed
from services.loader.core.inference.contents import RepetitionDetection, StructuredOutputs
from services.loader.core.inference.fields import FIELDS, NEVER_IN_TEMPLATES

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # torch's
]
RULES: Mapping[ApiOperation, FieldRules] = {**FIELDS, ApiOperation.GENERATE: GENERATE}
SDK_PARAMETERS = {
    ApiOperation.CHAT: openai_chat.CompletionCreateParamsBase,
    ApiOperation.COMPLETION: openai_completions.CompletionCreateParamsBase,
    ApiOperation.RESPONSE: openai_responses.ResponseCreateParamsBase,
    ApiOperation.MESSAGE: message_create_params.MessageCreateParamsBase,
    ApiOperation.COUNT_TOKENS: message_count_tokens_params.MessageCountTokensParams,
}
VALUES_OF_A_TEMPLATE = {"add_generation_prompt", "continue_final_message"}


@pytest.fixture(scope="module")
def models() -> Mapping[ApiOperation, Sequence[Any]]:
    """Return vLLM's request models of each operation."""
    from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
    from vllm.entrypoints.openai.chat_completion.protocol import (
        BatchChatCompletionRequest,
        ChatCompletionRequest,
    )
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.scale_out.token_in_token_out.protocol import DerenderChatRequest, GenerateRequest
    from vllm.entrypoints.serve.tokenize.protocol import (
        DetokenizeRequest,
        TokenizeChatRequest,
        TokenizeCompletionRequest,
    )

    return {
        ApiOperation.CHAT: (ChatCompletionRequest,),
        ApiOperation.CHAT_TOKENS: (ChatCompletionRequest,),
        ApiOperation.CHAT_BATCH: (BatchChatCompletionRequest,),
        ApiOperation.RENDER_CHAT: (ChatCompletionRequest,),
        ApiOperation.READ_CHAT: (DerenderChatRequest,),
        ApiOperation.PREPARE_RESPONSE: (ResponsesRequest,),
        ApiOperation.REPLAY_RESPONSE: (replayed(ResponsesRequest),),
        ApiOperation.PREPARE_MESSAGE: (AnthropicMessagesRequest,),
        ApiOperation.REPLAY_MESSAGE: (replayed(AnthropicMessagesRequest),),
        ApiOperation.COMPLETION: (CompletionRequest,),
        ApiOperation.RESPONSE: (ResponsesRequest,),
        ApiOperation.MESSAGE: (AnthropicMessagesRequest,),
        ApiOperation.COUNT_TOKENS: (AnthropicCountTokensRequest,),
        ApiOperation.TOKENIZE: (TokenizeChatRequest, TokenizeCompletionRequest),
        ApiOperation.DETOKENIZE: (DetokenizeRequest,),
        ApiOperation.TOKENIZER_INFO: (),
        ApiOperation.GENERATE: (GenerateRequest,),
    }


@pytest.mark.parametrize("operation", ApiOperation)
def test_every_field_of_vllms_models_has_a_row(
    operation: ApiOperation, models: Mapping[ApiOperation, Sequence[Any]]
) -> None:
    fields = {
        field.alias or name for model in models[operation] for name, field in model.model_fields.items()
    }
    assert fields - set(RULES[operation]) == set()


def test_every_sampling_parameter_has_a_row() -> None:
    from vllm.sampling_params import SamplingParams

    assert set(SamplingParams.__struct_fields__) - set(SAMPLING_PARAMS) == set()


def test_every_field_of_nested_parameters_has_a_shape() -> None:
    from vllm.sampling_params import RepetitionDetectionParams, StructuredOutputsParams

    for theirs, ours in (
        (RepetitionDetectionParams, RepetitionDetection),
        (StructuredOutputsParams, StructuredOutputs),
    ):
        assert {field.name for field in dataclasses.fields(theirs) if field.init} == set(
            ours.__struct_fields__
        )


@pytest.mark.parametrize("operation", SDK_PARAMETERS)
def test_every_parameter_of_the_official_sdk_has_a_row(operation: ApiOperation) -> None:
    assert set(_annotations(SDK_PARAMETERS[operation])) - set(RULES[operation]) == set()


def test_no_argument_of_the_tokenizer_is_a_value_of_a_template() -> None:
    from vllm.renderers.hf import _get_hf_base_chat_template_params

    assert _get_hf_base_chat_template_params() - VALUES_OF_A_TEMPLATE <= NEVER_IN_TEMPLATES


def _annotations(params: Any) -> dict[str, object]:
    """Return what a TypedDict has, its bases' keys too: at run time it has no bases."""
    found: dict[str, object] = {}
    for base in getattr(params, "__orig_bases__", ()):
        found |= _annotations(base)
    return found | getattr(params, "__annotations__", {})
