"""Bodies for the routes of the serving API, made from the table of fields: right, odd and wrong ones.

One seed makes the same bodies again. An answer is short whatever the body asks for: what is tried is how much
a body can break, not how long an engine runs.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from mint_common.inference.operations import ApiOperation
from services.gateway.core.openai.token_generation import GENERATE, SAMPLING_PARAMS
from services.loader.core.inference.fields import FIELDS

RULES = {**FIELDS, ApiOperation.GENERATE: GENERATE}

LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
ODD: Sequence[Any] = (
    *(None, True, False, 0, 1, -1, 2, 7, 255, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**30),
    *(0.5, -0.5, 1.0, 1e-9, 1e308, -0.0, "", "a", "0", "nan", "auto", "none", "\x00", "é" * 50, "\U0001f600"),
    *("a" * 5000, [], [[]], {}, {"": 0}, {"type": "text"}, {"type": "function"}, [1, 2, 3], ["a", ""]),
    *([None], [2**40], [-1], [0.5], {"a": {"b": [1, {"c": None}]}}, [{"role": "user"}], {"type": "object"}),
)
SCHEMAS: Sequence[Any] = (
    {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}},
    {"$ref": "#"},
    {"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"},
    {"type": "string", "pattern": "("},
    {"type": "string", "pattern": "(?=a)b\\1"},
    {"type": "integer", "minimum": 5, "maximum": 3},
    {"type": "array", "minItems": 10**9},
    {"type": "string", "minLength": 10**9},
    {"type": ["string", "null"]},
    {"type": "nothing"},
    {"enum": []},
    {"const": None},
    {"anyOf": []},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"not": {}},
    {"type": "object", "patternProperties": {"(": {}}},
    {"properties": []},
    {"type": "object", "additionalProperties": 3},
    True,
    False,
    [],
    "",
    None,
    {},
)
REGEXES = (
    "[ab]c",
    "(",
    "a{2,1}",
    "a{1000}",
    "(a|b){50}",
    "\\p{L}",
    "(?i)a",
    "[z-a]",
    "",
    "\x00",
    "^a$",
    "\\d+\\",
)
GRAMMARS = ('root ::= "a"', "root ::= root", "root ::=", 'start: "a"', "nothing", "", 'root ::= missing "a"')
TOOLS: Sequence[Any] = tuple(
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in (
        ("f", SCHEMAS[0]),
        ("f", None),
        ("", {}),
        ("g" * 300, SCHEMAS[1]),
        ("h", []),
        (None, 1),
    )
)
TEXTS = (
    "2 4 6",
    "",
    " ",
    "a" * 2000,
    "{}",
    "<tool_call>{</tool_call>",
    "<|im_start|>",
    "\x00",
    "é\U0001f600",
)
CALLS: Sequence[Any] = (
    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}},
    {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}},
    {"id": "1", "type": "function", "function": {"name": "f"}},
    {"type": "function"},
    {"id": None, "type": "custom", "custom": {"name": "f", "input": ""}},
    {},
    None,
    1,
)
KINDS = (
    "text",
    "refusal",
    "thinking",
    "input_text",
    "output_text",
    "tool_use",
    "tool_result",
    "image_url",
    "x",
)


class Bodies:
    """Makes bodies; the same from the same seed."""

    def __init__(self, seed: int, *, model: str) -> None:
        self._random = random.Random(seed)
        self._model = model
        self._values: Mapping[str, Callable[[], Any]] = {
            "messages": self._messages,
            "prompt": self._prompt,
            "input": self._input,
            "tools": lambda: self._some(TOOLS),
            "tool_choice": self._tool_choice,
            "response_format": self._response_format,
            "structured_outputs": self._structured_outputs,
            "text": lambda: {"format": {"type": "json_schema", "name": "x", "schema": self._pick(SCHEMAS)}},
            "output_config": lambda: {"format": {"type": "json_schema", "schema": self._pick(SCHEMAS)}},
            "logit_bias": lambda: {
                self._pick(("0", "263", "264", "-1", "x", "1.5")): self._pick((1, -100, 1e9))
            },
            "stop": lambda: self._pick(("a", "", ["a"] * 4, ["a"] * 5, ["a"] * 16, ["", "a"], ["\x00"])),
            "stop_sequences": lambda: self._pick((["a"] * 4, ["a"] * 16, [""], [])),
            "stop_token_ids": self._tokens,
            "allowed_token_ids": self._tokens,
            "logprob_token_ids": self._tokens,
            "tokens": self._tokens,
            "token_ids": self._tokens,
            "bad_words": lambda: self._some(("a", "", " ", "ab", "\x00", "é")),
            "chat_template_kwargs": lambda: self._pick(
                (
                    {"enable_thinking": True},
                    {"add_generation_prompt": 3},
                    {"x": "y"},
                    {"continue_final_message": 1},
                )
            ),
            "repetition_detection": lambda: {
                "max_pattern_size": self._pick((0, 1, 5, 256)),
                "min_pattern_size": self._pick((0, 1, 9)),
                "min_count": self._pick((0, 1, 2, 3)),
            },
            "n": lambda: self._pick((1, 2, 3, 0, 8)),
            "temperature": lambda: self._pick((0, 0.5, 1, 2, 2.1, 1e-9)),
            "truncate_prompt_tokens": lambda: self._pick((-1, 0, 1, 3, 10**6)),
            "prompt_logprobs": lambda: self._pick((0, 1, 20)),
            "logprobs": lambda: self._pick((True, 0, 1, 20)),
            "top_logprobs": lambda: self._pick((0, 1, 20)),
            "min_tokens": lambda: self._pick((0, 1, 5, 300)),
            "stream": lambda: True,
            "stream_options": lambda: {self._pick(("include_usage", "continuous_usage_stats")): True},
            "thinking_token_budget": lambda: self._pick((0, 1, -1, 10)),
            "reasoning": lambda: {"effort": self._pick(("low", "none", "x"))},
            "thinking": lambda: self._pick(
                ({"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"}, {"type": "x"})
            ),
            "system": lambda: self._pick(("a", "", [{"type": "text", "text": "a"}])),
            "include": lambda: self._pick((["message.output_text.logprobs"], ["x"], [])),
            "documents": lambda: self._pick(([{"title": "a", "text": "b"}], [{}], [{"a": 1}])),
        }

    def make(self, operation: ApiOperation) -> bytes:
        """Return the next body."""
        if self._random.random() < 0.02:
            return self._broken()
        body = self._needed(operation)
        for _ in range(self._pick((0, 1, 1, 2, 2, 3, 4, 6))):
            name = self._pick(sorted(RULES[operation]))
            body[name] = self._value(name)
        if operation is ApiOperation.CHAT_BATCH and self._random.random() < 0.5:
            body["messages"] = [self._messages() for _ in range(self._pick((0, 1, 2, 3)))]
        if operation is ApiOperation.GENERATE and isinstance(body.get("sampling_params"), dict):
            for _ in range(self._pick((0, 1, 2, 3))):
                name = self._pick(sorted(SAMPLING_PARAMS))
                body["sampling_params"][name] = self._value(name)
        if self._random.random() < 0.03:
            body[self._pick(("foo", "guided_json", "best_of", "min_p ", ""))] = self._pick(ODD)
        if self._random.random() < 0.03:
            body.pop(self._pick(sorted(body)), None)
        self._shorten(operation, body)
        return json.dumps(body, ensure_ascii=self._random.random() < 0.5).encode()

    def _needed(self, operation: ApiOperation) -> dict[str, Any]:
        message = [{"role": "user", "content": "2 4 6"}]
        prompts: dict[ApiOperation, dict[str, Any]] = {
            ApiOperation.CHAT_TOKENS: {"messages": message, "tokens": [5, 6]},
            ApiOperation.CHAT_BATCH: {"messages": [message, message]},
            ApiOperation.COMPLETION: {"prompt": "2 4 6"},
            ApiOperation.RESPONSE: {"input": "2 4 6"},
            ApiOperation.MESSAGE: {"messages": message, "max_tokens": 2},
            ApiOperation.TOKENIZE: {"prompt": "2 4 6"},
            ApiOperation.DETOKENIZE: {"tokens": [5, 6]},
            ApiOperation.GENERATE: {"token_ids": [5, 6], "sampling_params": {"max_tokens": 2}},
        }
        return {"model": self._model, **prompts.get(operation, {"messages": message})}

    def _value(self, name: str) -> Any:
        made = self._values.get(name)
        if made is None or self._random.random() < 0.3:
            return deepcopy(self._pick(ODD))
        return deepcopy(made())

    def _shorten(self, operation: ApiOperation, body: dict[str, Any]) -> None:
        """Keep answers short, but for bodies whose limit itself is wrong."""
        rows = set(RULES[operation])
        for name in LIMITS:
            if isinstance(body.get(name), int) and body[name] > 4 and self._random.random() < 0.9:
                body[name] = 2
        if rows.intersection(LIMITS) and not any(name in body for name in LIMITS):
            body[next(name for name in LIMITS if name in rows)] = 2

    def _broken(self) -> bytes:
        return self._pick(
            (
                b"",
                b"[]",
                b"null",
                b'"a"',
                b"{",
                b"\xff\xfe",
                b'{"model": "tiny", "prompt": "\xff"}',
                b'{"model": "tiny", "prompt": "a", "temperature": NaN}',
                b'{"model": "tiny", "prompt": "\\ud800"}',
                b'{"model": "tiny", "prompt": "a", "prompt": "b"}',
                b"\xef\xbb\xbf{}",
                b"[" * 3000,
                b'{"a":' * 3000,
                b'{"model": "tiny", "messages": ' + b"[" * 65 + b"]" * 65 + b"}",
                '{"model": "tiny", "prompt": "a"}'.encode("utf-16"),
            )
        )

    def _messages(self) -> Any:
        return [self._message() for _ in range(self._pick((0, 1, 1, 2, 3)))]

    def _message(self) -> Any:
        roles = ("user", "user", "assistant", "system", "developer", "tool", "function", "", "x", None)
        message: dict[str, Any] = {"role": self._pick(roles), "content": self._content()}
        for name in ("tool_calls", "tool_call_id", "name", "reasoning", "reasoning_content", "refusal"):
            if self._random.random() < 0.15:
                message[name] = self._some(CALLS) if name == "tool_calls" else self._pick(ODD)
        if self._random.random() < 0.1:
            message.pop("content")
        return message

    def _content(self) -> Any:
        if self._random.random() < 0.6:
            return self._pick((*TEXTS, None))
        return [self._part() for _ in range(self._pick((0, 1, 2)))]

    def _part(self) -> Any:
        part = {"type": self._pick(KINDS), "text": self._pick((*TEXTS, None))}
        if part["type"] in {"tool_use", "tool_result"}:
            part |= {"id": "1", "tool_use_id": "1", "name": "f", "input": {}, "content": self._pick(TEXTS)}
        if part["type"] == "image_url":
            part["image_url"] = {"url": "http://127.0.0.1:1/x.png"}
        return self._pick((part, part, part, "text", None, {}))

    def _input(self) -> Any:
        items = (
            {"role": "user", "content": self._content()},
            {"role": "assistant", "content": self._content()},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": self._pick(("{}", "{", ""))},
            {"type": "function_call_output", "call_id": "1", "output": self._pick(("a", "", [], None))},
            {"type": "reasoning", "summary": [], "id": self._pick(("1", None))},
            {"type": "item_reference", "id": "1"},
            {},
        )
        return self._pick((self._pick(TEXTS), self._some(items)))

    def _prompt(self) -> Any:
        return self._pick(
            (*TEXTS, ["a", "b"], [], [""], [5, 6], [[5], [6, 7]], [[]], [263], [264], [10**9], [5] * 300)
        )

    def _tokens(self) -> Any:
        return self._pick(([], [5], [5, 6, 7], [263], [264], [-1], [2**31], [5] * 200, [0], ["a"], None))

    def _tool_choice(self) -> Any:
        named = {"type": "function", "function": {"name": self._pick(("f", "missing", ""))}}
        flat = {"type": self._pick(("function", "tool", "auto", "any")), "name": self._pick(("f", "missing"))}
        return self._pick(("auto", "none", "required", named, flat, "x", {}))

    def _response_format(self) -> Any:
        schema = {"name": "x", "schema": self._pick(SCHEMAS)}
        return self._pick(
            (
                {"type": "json_schema", "json_schema": schema},
                {"type": "json_schema", "json_schema": schema},
                {"type": "json_object"},
                {"type": "text"},
                {"type": "json_schema"},
                {"type": "structural_tag", "structures": [], "triggers": ["a"]},
                {"type": "structural_tag", "format": self._pick(ODD)},
                {"type": "x"},
            )
        )

    def _structured_outputs(self) -> Any:
        kinds = {
            "json": self._pick(SCHEMAS),
            "regex": self._pick(REGEXES),
            "choice": self._pick((["a", "b"], [], [""], ["a"] * 100, "a")),
            "grammar": self._pick(GRAMMARS),
            "json_object": self._pick((True, False)),
            "structural_tag": self._pick(("", "{}", "x", '{"type": "structural_tag", "format": {}}')),
            "whitespace_pattern": self._pick(REGEXES),
            "disable_any_whitespace": True,
            "x": 1,
        }
        names = self._random.sample(sorted(kinds), k=self._pick((1, 1, 1, 2)))
        return {name: kinds[name] for name in names}

    def _pick(self, values: Sequence[Any]) -> Any:
        return self._random.choice(values)

    def _some(self, values: Sequence[Any]) -> Any:
        return [self._pick(values) for _ in range(self._pick((0, 1, 1, 2)))]
