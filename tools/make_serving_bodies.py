"""Write the schemas of the serving routes' bodies and answers for the gateway, which imports no vLLM.

They are those of vLLM's models, without fields that are refused and parts that are not text. vLLM
is imported only if the table of fields or a version has changed: remove the file after a change of this tool.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions, version
from typing import Any

import msgspec
from generated_page import ROOT, generate

from mint_common.inference.fields import FieldRule, FieldRules
from mint_common.inference.operations import ApiOperation
from services.gateway.core.openai.token_generation import GENERATE, SAMPLING_PARAMS
from services.loader.core.inference.fields import FIELDS

FILE = ROOT / "services/gateway/http/openai/bodies.json"
Schema = dict[str, Any]  # JSON
_MEDIA = re.compile(
    r"image|audio|video|media|file|embeds|computer|shell|search|mcp|interpreter|patch|compaction|program"
    r"|configuration|additionaltools|namespace|container",
    re.IGNORECASE,
)
"""Names of parts and items that are refused: only text is taken, and tools that the client runs."""
_DROPPED = {"title", "default", "description", "deprecated", "examples", "discriminator"}
"""Defaults too: a generated client would send them."""


def current() -> str:
    """Return the file's text; what is checked in if nothing that it is made of has changed."""
    said = FILE.read_text() if FILE.exists() else "{}"
    (vllm,) = packages_distributions()["vllm"]  # of a CPU or of a GPU
    sources = {"vllm": version(vllm), "openai": version("openai"), "fields": _fields_sha256()}
    if json.loads(said).get("sources") == sources:
        return said
    return json.dumps({"sources": sources, **_made()}, indent=1, sort_keys=True) + "\n"


def _fields_sha256() -> str:
    rules: Mapping[str, FieldRules] = {
        **{str(name): each for name, each in FIELDS.items()},
        "generate": GENERATE,
        "sampling_params": SAMPLING_PARAMS,
    }
    taken = {
        name: {field: [_own(rule), rule.note] for field, rule in each.items() if _is_taken(rule)}
        for name, each in rules.items()
    }
    return hashlib.sha256(json.dumps(taken, sort_keys=True).encode()).hexdigest()


def _made() -> Schema:
    from pydantic.json_schema import models_json_schema
    from vllm.entrypoints.anthropic import protocol as anthropic
    from vllm.entrypoints.openai.chat_completion import protocol as chat
    from vllm.entrypoints.openai.completion import protocol as completion
    from vllm.entrypoints.openai.responses import protocol as responses
    from vllm.entrypoints.serve.tokenize import protocol as tokenize

    models: Mapping[ApiOperation, tuple[Any, ...]] = {
        ApiOperation.CHAT: (chat.ChatCompletionRequest,),
        ApiOperation.CHAT_TOKENS: (chat.ChatCompletionRequest,),
        ApiOperation.CHAT_BATCH: (chat.BatchChatCompletionRequest,),
        ApiOperation.RENDER_CHAT: (chat.ChatCompletionRequest,),
        ApiOperation.COMPLETION: (completion.CompletionRequest,),
        ApiOperation.RESPONSE: (responses.ResponsesRequest,),
        ApiOperation.MESSAGE: (anthropic.AnthropicMessagesRequest,),
        ApiOperation.COUNT_TOKENS: (anthropic.AnthropicCountTokensRequest,),
        ApiOperation.TOKENIZE: (tokenize.TokenizeCompletionRequest, tokenize.TokenizeChatRequest),
        ApiOperation.DETOKENIZE: (tokenize.DetokenizeRequest,),
    }
    answers: Mapping[ApiOperation, Any] = {
        ApiOperation.CHAT: chat.ChatCompletionResponse,
        ApiOperation.CHAT_TOKENS: chat.ChatCompletionResponse,
        ApiOperation.CHAT_BATCH: chat.ChatCompletionResponse,
        ApiOperation.COMPLETION: completion.CompletionResponse,
        ApiOperation.MESSAGE: anthropic.AnthropicMessagesResponse,
        ApiOperation.COUNT_TOKENS: anthropic.AnthropicCountTokensResponse,
        ApiOperation.TOKENIZE: tokenize.TokenizeResponse,
        ApiOperation.DETOKENIZE: tokenize.DetokenizeResponse,
    }
    kinds = {model: None for each in (*models.values(), answers.values()) for model in each}
    refs, found = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    definitions = {name: _plain(each) for name, each in found["$defs"].items()}
    bodies = {
        str(operation): _either(
            [_body(definitions[_name(refs[kind, "validation"])], FIELDS[operation]) for kind in each]
        )
        for operation, each in models.items()
    }
    bodies[str(ApiOperation.GENERATE)] = _generate_body()
    told = {str(operation): refs[kind, "validation"] for operation, kind in answers.items()}
    return {"bodies": bodies, "answers": told, "schemas": _reached([bodies, told], definitions)}


def _body(model: Schema, rules: FieldRules) -> Schema:
    """Return a model with the fields that are taken; a required one has no null."""
    theirs = model["properties"]
    taken = {
        name: _field(theirs.get(name, {}), rule)
        for name, rule in rules.items()
        if _is_taken(rule) and (name in theirs or rule.kind is not None)
    }
    required = sorted({*model.get("required", ())} | ({"tokens"} & set(taken)))
    for name in required:
        if {"type": "null"} in taken[name].get("anyOf", ()):
            taken[name] = taken[name]["anyOf"][0]
    return {"type": "object", "properties": taken, "required": required}


def _either(bodies: Sequence[Schema]) -> Schema:
    """Return a body that is one of several."""
    return bodies[0] if len(bodies) == 1 else {"anyOf": list(bodies)}


def _field(theirs: Schema, rule: FieldRule) -> Schema:
    """Return MinT's schema of a field if it has one of plain values, else vLLM's."""
    own = _own(rule)
    if own is None:
        return theirs | ({"description": rule.note} if rule.note else {})
    return {"anyOf": [own, {"type": "null"}], **({"description": rule.note} if rule.note else {})}


def _own(rule: FieldRule) -> Schema | None:
    schema = {} if rule.kind is None else _plain(msgspec.json.schema(rule.kind))
    return (
        schema if schema and not re.search(r'"\$ref"|"object"|"type": "array"}', json.dumps(schema)) else None
    )


def _is_taken(rule: FieldRule) -> bool:
    return rule.neutral is None


def _generate_body() -> Schema:
    fields = {name: _field({}, rule) for name, rule in GENERATE.items() if _is_taken(rule)}
    sampling = {name: _field({}, rule) for name, rule in SAMPLING_PARAMS.items() if _is_taken(rule)}
    fields |= {
        "model": {"type": "string"},
        "token_ids": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "sampling_params": {"type": "object", "properties": sampling},
    }
    return {"type": "object", "properties": fields, "required": ["model", "sampling_params", "token_ids"]}


def _plain(node: Any) -> Any:
    """Return a schema without titles, defaults and parts that are not taken."""
    if isinstance(node, list):
        return [_plain(each) for each in node if not _is_media(each)]
    if not isinstance(node, dict):
        return node
    kept = {name: each for name, each in node.items() if name not in _DROPPED and not isinstance(each, bool)}
    return {
        name: {field: _plain(each) for field, each in value.items()}
        if name == "properties"
        else _plain(value)
        for name, value in kept.items()
    }


def _is_media(node: Any) -> bool:
    return isinstance(node, dict) and bool(_MEDIA.search(_name(node)))


def _name(node: Mapping[str, Any]) -> str:
    return str(node.get("$ref", "")).rpartition("/")[2]


def _reached(bodies: Any, definitions: Mapping[str, Schema]) -> Mapping[str, Schema]:
    """Return the definitions that bodies refer to, directly or not."""
    found: dict[str, Schema] = {}
    waiting = [bodies]
    while waiting:
        for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(waiting.pop())):
            if name not in found:
                found[name] = definitions[name]
                waiting.append(definitions[name])
    return found


if __name__ == "__main__":
    generate(__doc__, {FILE: current})
