"""The check of a request of an inference API, before vLLM's models read it."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from mint_common.inference.operations import ApiOperation
from mint_common.inference.sizes import ContextExceeded
from services.loader.core.inference.check import CheckedBody, read_checked
from services.loader.core.inference.fields import FIELDS

CONTEXT = 512
NEEDED: dict[str, object] = {
    "model": "copier@prod",
    "messages": [{"role": "user", "content": "2 4 6"}],
    "prompt": "2 4 6",
    "input": "2 4 6",
    "tokens": [1, 2],
    "max_tokens": 8,
}


def smallest(operation: ApiOperation) -> dict[str, Any]:
    needed = {
        ApiOperation.CHAT_TOKENS: ("messages", "tokens"),
        ApiOperation.COMPLETION: ("prompt",),
        ApiOperation.CHAT_BATCH: (),
        ApiOperation.RESPONSE: ("input",),
        ApiOperation.MESSAGE: ("messages", "max_tokens"),
        ApiOperation.TOKENIZE: ("prompt",),
        ApiOperation.DETOKENIZE: ("tokens",),
        ApiOperation.TOKENIZER_INFO: (),
        ApiOperation.READ_CHAT: (),
        ApiOperation.PREPARE_RESPONSE: ("input",),
        ApiOperation.PREPARE_MESSAGE: ("messages", "max_tokens"),
        ApiOperation.REPLAY_RESPONSE: (),
        ApiOperation.REPLAY_MESSAGE: (),
    }
    body = {name: NEEDED[name] for name in ("model", *needed.get(operation, ("messages",)))}
    return body | ({"messages": [NEEDED["messages"]]} if operation is ApiOperation.CHAT_BATCH else {})


def check(operation: ApiOperation, body: object) -> CheckedBody:
    return read_checked(operation, json.dumps(body).encode(), max_context=CONTEXT)


def chat(**fields: object) -> Any:
    return check(ApiOperation.CHAT, smallest(ApiOperation.CHAT) | fields)


def refused(operation: ApiOperation = ApiOperation.CHAT, **fields: object) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        check(operation, smallest(operation) | fields)
    return caught.value


@pytest.mark.parametrize("operation", FIELDS)
def test_the_smallest_body_passes(operation: ApiOperation) -> None:
    check(operation, smallest(operation))


@pytest.mark.parametrize("operation", FIELDS)
def test_a_refused_field_takes_neutral_values_alone(operation: ApiOperation) -> None:
    for name, rule in FIELDS[operation].items():
        if rule.neutral is not None:
            for neutral in (None, *rule.neutral):
                check(operation, smallest(operation) | {name: neutral})
            assert refused(operation, **{name: "something"}).field == name


@pytest.mark.parametrize("operation", FIELDS)
def test_an_ignored_field_is_named_and_not_passed_on(operation: ApiOperation) -> None:
    for name, rule in FIELDS[operation].items():
        if rule.is_ignored:
            checked = check(operation, smallest(operation) | {name: {"type": "anything"}})
            assert checked.ignored == (name,)
            assert set(checked.fields) == set(smallest(operation))
            assert check(operation, smallest(operation) | {name: None}).ignored == ()
            assert rule.note, name


def test_a_thread_is_refused_since_its_next_turn_would_be_sent_alone() -> None:
    assert refused(ApiOperation.MESSAGE, thread={"type": "create"}).field == "thread"


def test_an_unknown_field_is_named() -> None:
    assert refused(guided_json={}).field == "guided_json"
    assert refused(stream_options={"a": 1}, stream=True).field == "stream_options.a"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "text", "text": "x", "uuid": "1", "image_url": "http://169.254.169.254/"},
        {"image_url": "http://169.254.169.254/"},
        {"type": "input_audio", "input_audio": {}},
        {"type": "prompt_embeds", "prompt_embeds": ""},
    ],
)
def test_parts_that_are_no_text_are_refused(part: dict[str, object]) -> None:
    assert refused(messages=[{"role": "user", "content": [part]}]).field.startswith("messages[0].content[0]")


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        (
            ApiOperation.MESSAGE,
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        ),
        (
            ApiOperation.MESSAGE,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image"}]}
                        ],
                    }
                ]
            },
        ),
        (ApiOperation.MESSAGE, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        (
            ApiOperation.RESPONSE,
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://a"}]}]},
        ),
        (
            ApiOperation.RESPONSE,
            {"input": [{"type": "function_call_output", "call_id": "1", "output": [{"type": "input_file"}]}]},
        ),
        (ApiOperation.RESPONSE, {"input": [{"type": "item_reference", "id": "1"}]}),
        (ApiOperation.RESPONSE, {"tools": [{"type": "mcp", "server_url": "http://a"}]}),
    ],
)
def test_nothing_makes_a_server_fetch_or_run(operation: ApiOperation, fields: dict[str, object]) -> None:
    (name,) = fields
    assert refused(operation, **fields).field.startswith(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop", ["x"] * 17),
        ("stop", "x" * 1001),
        ("stop_token_ids", [1] * 129),
        ("logit_bias", {str(i): 1 for i in range(1025)}),
        ("seed", 2**63),
        ("temperature", "hot"),
        ("messages", [{"role": "user", "content": ""}] * 4097),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x" * 70_000}}),
        ("response_format", {"a": 1, "b": "x" * 70_000}),
        ("response_format", "json"),
        ("structured_outputs", 2),
        ("structured_outputs", {"json": {"title": "x" * 70_000}}),
        ("structured_outputs", {"regex": 3}),
        ("structured_outputs", {"json_object": False}),
        ("structured_outputs", {"_backend": "x"}),
        ("chat_template_kwargs", {"tokenize": False}),
        ("chat_template_kwargs", {"enable_thinking": [False]}),
    ],
)
def test_a_value_out_of_bounds_is_named(name: str, value: object) -> None:
    assert refused(**{name: value}).field.split("[")[0].split(".")[0] == name


@pytest.mark.parametrize("prompt", [[1] * 513, [[1], [1] * 513]])
def test_a_prompt_beyond_the_context_is_refused_before_any_engine(prompt: object) -> None:
    with pytest.raises(ContextExceeded):
        check(ApiOperation.COMPLETION, {"model": "m", "prompt": prompt})


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1, 2], [3]], [0]])
def test_every_form_of_a_prompt_passes(prompt: object) -> None:
    check(ApiOperation.COMPLETION, {"model": "m", "prompt": prompt})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(data=st.data(), operation=st.sampled_from(list(FIELDS)))
def test_any_value_of_any_field_passes_or_is_refused_for_good(
    data: st.DataObject, operation: ApiOperation
) -> None:
    names = list(FIELDS[operation])
    body = smallest(operation) | data.draw(st.dictionaries(st.sampled_from(names), json_values, max_size=4))
    with suppress(InvalidField, ContextExceeded):
        check(operation, body)


@given(st.text())
def test_any_text_may_be_a_message(text: str) -> None:
    chat(messages=[{"role": "user", "content": [{"type": "text", "text": text}] * 40}])


BOMB = {"type": "array", "minItems": 10**9}
WIDE = {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(40)}, "minProperties": 1}
GRAMMARS = {
    "type": "structural_tag",
    "format": {"type": "or", "elements": [{"type": "grammar", "grammar": "root ::= " + "[a-z] " * 800}] * 2},
}
FACES = [chr(0x1F600 + i) * 1000 for i in range(60)]
IN_TEXT = json.dumps(BOMB).replace("minItems", "m\\u0069nItems")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": BOMB}}),
        ("structured_outputs", {"json": BOMB}),
        ("structured_outputs", {"json": IN_TEXT}),
        ("structured_outputs", {"regex": "a{1000000}"}),
        ("structured_outputs", {"regex": "((a{900}){900})"}),
        ("structured_outputs", {"grammar": 'root ::= "a"{1,1000000}'}),
        ("structured_outputs", {"structural_tag": IN_TEXT}),
        ("structured_outputs", {"regex": "(a+)" * 4000}),
        ("structured_outputs", {"grammar": "root ::= " + "[a-z]? " * 4000}),
        ("structured_outputs", {"json": {"type": "string", "pattern": "(a+)" * 4000}}),
        ("structured_outputs", {"json": {"type": "object", "patternProperties": {"a+" * 5000: {}}}}),
        ("structured_outputs", {"json": {"type": "array", "prefixItems": [WIDE] * 3}}),
        ("structured_outputs", {"json": {"enum": FACES[:5]}}),
        ("structured_outputs", {"choice": FACES}),
        ("structured_outputs", {"choice": FACES[:5]}),
        ("structured_outputs", {"structural_tag": json.dumps(GRAMMARS)}),
        ("response_format", GRAMMARS),
        ("structured_outputs", {"json": json.dumps({"type": "array", "prefixItems": [WIDE] * 3})}),
        ("structured_outputs", {"choice": ["a" * 1000] * 100}),
    ],
)
def test_what_takes_long_to_compile_never_reaches_an_engine(name: str, value: object) -> None:
    assert refused(**{name: value}).field == name


def test_a_count_of_many_digits_is_one() -> None:
    assert refused(structured_outputs={"regex": "a{%s}" % ("9" * 5000)}).field == "structured_outputs"


@pytest.mark.parametrize("text", ["x\n{}", "https://example.org/a.json", "file:///etc/passwd", ""])
def test_a_schema_refers_to_itself_only(text: str) -> None:
    """xgrammar writes a reference that it does not follow to the standard error, as it was sent."""
    schema = {"type": "object", "properties": {"a": {"$ref": text}}}
    assert "`$ref`" in refused(structured_outputs={"json": schema}).problem
    assert "`$ref`" in refused(structured_outputs={"json": json.dumps(schema)}).problem
    chat(structured_outputs={"json": {"$defs": {"a": {}}, "$ref": "#/$defs/a"}})
    chat(structured_outputs={"json": {"type": "object", "properties": {"$ref": {"type": "string"}}}})


@pytest.mark.parametrize("number", ["1e400", "NaN"])
@pytest.mark.parametrize("name", ["json", "structural_tag"])
def test_json_in_a_text_that_cannot_be_read_hides_no_count(name: str, number: str) -> None:
    text = json.dumps(BOMB)[:-1] + f', "const": {number}}}'
    assert refused(structured_outputs={name: text}).field == f"structured_outputs.{name}"


def test_a_usual_pattern_passes() -> None:
    chat(structured_outputs={"regex": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"})
    chat(structured_outputs={"json": {"type": "string", "maxLength": 1000, "pattern": "^\\d{4}-\\d{2}$"}})
    chat(structured_outputs={"json": WIDE})
    chat(structured_outputs={"choice": [f"label {i:020}" for i in range(500)]})
