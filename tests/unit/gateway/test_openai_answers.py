"""Chunks of the engine become OpenAI answers; streamed parts add up to the whole."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mint_common.errors import InvalidField, NotFound, Overloaded, Unauthorized, Unavailable
from mint_common.generation import Delta, Finished, Started, TokenAlternative
from mint_common.ids import Digest, EngineId
from services.gateway.core.openai.answers import (
    ResponseMeta,
    StreamedAnswer,
    WholeAnswer,
    WrongRevision,
    check_unbroken,
    served_by,
)
from services.gateway.core.openai.dialects import ChatDialect, CompletionDialect
from services.gateway.core.openai.errors import error_body, error_status

DIGEST = Digest("sha256:" + "a" * 64)
HEAD = ResponseMeta(answer_id="x-1", created=5, model="counter@prod", served=DIGEST)
WORDS = st.text(alphabet="abc é", min_size=1, max_size=3)


def _start(tokens: int = 3, revision: Digest | None = DIGEST) -> Started:
    return Started(engine_id=EngineId("e"), revision=revision, prompt_tokens=tuple(range(tokens)))


def _delta(index: int, text: str, *, logprobs: bool = False) -> Delta:
    tokens = tuple(range(len(text)))
    if not logprobs:
        return Delta(index=index, text=text, tokens=tokens)
    alternatives = tuple(
        (
            TokenAlternative(token=at, text=letter, logprob=-0.5),
            TokenAlternative(token=900, text="?", logprob=-0.1),
        )
        for at, letter in enumerate(text)
    )
    return Delta(
        index=index,
        text=text,
        tokens=tokens,
        logprobs=(-0.5,) * len(text),
        alternatives=alternatives,
        token_texts=tuple(text),
    )


@st.composite
def runs(draw):
    """Return (prompts, n, chunks): every choice's deltas in order, choices interleaved at will."""
    prompts, n = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    queues = []
    for prompt in range(prompts):
        for choice in range(n):
            deltas = [_delta(choice, word, logprobs=True) for word in draw(st.lists(WORDS, max_size=4))]
            finish = Finished(index=choice, reason=draw(st.sampled_from(["stop", "length"])))
            queues.append([(prompt, chunk) for chunk in [*deltas, finish]])
    chunks = []
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        chunks.append(queue.pop(0))
    return prompts, n, chunks


def _whole(dialect, run):
    prompts, n, chunks = run
    whole = WholeAnswer(dialect, [_start() for _ in range(prompts)], n=n)
    for index, chunk in chunks:
        whole.add(index, chunk)
    return _sent(whole.to_json(HEAD))


def _parts(dialect, run, *, include_usage=True):
    prompts, n, chunks = run
    starts = [_start() for _ in range(prompts)]
    streamed = StreamedAnswer(dialect, starts, n=n, head=HEAD, include_usage=include_usage)
    parts = streamed.opening()
    for index, chunk in chunks:
        parts += streamed.parts(index, chunk)
    return _sent(parts + streamed.closing())


def _sent(value):
    return msgspec.json.decode(msgspec.json.encode(value))


@given(runs())
def test_streamed_completion_parts_add_up_to_the_whole(run):
    whole = Completion.model_validate(_whole(CompletionDialect(logprobs=1), run))
    # Not validated: a part has no finish reason yet, which the type of whole answers does not know.
    parts = [Completion.construct(**part) for part in _parts(CompletionDialect(logprobs=1), run)]
    assert {part.system_fingerprint for part in parts} == {DIGEST}
    for choice in whole.choices:
        mine = [c for part in parts for c in part.choices if c.index == choice.index]
        assert "".join(c.text for c in mine) == choice.text
        assert mine[-1].finish_reason == choice.finish_reason
        offsets = [at for c in mine if c.logprobs for at in c.logprobs.text_offset]
        assert offsets == choice.logprobs.text_offset == list(range(len(choice.text)))
    assert parts[-1].choices == []
    assert parts[-1].usage == whole.usage


@given(runs())
def test_streamed_chat_parts_add_up_to_the_whole(run):
    whole = ChatCompletion.model_validate(_whole(ChatDialect(logprobs=1), run))
    parts = [ChatCompletionChunk.model_validate(part) for part in _parts(ChatDialect(logprobs=1), run)]
    for choice in whole.choices:
        mine = [c for part in parts for c in part.choices if c.index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        assert mine[-1].finish_reason == choice.finish_reason
        streamed = [entry for c in mine if c.logprobs for entry in c.logprobs.content]
        assert streamed == choice.logprobs.content
    assert parts[-1].usage == whole.usage


@given(runs())
def test_usage_counts_a_prompt_once_and_every_generated_token(run):
    prompts, _, chunks = run
    usage = _whole(CompletionDialect(logprobs=None), run)["usage"]
    generated = sum(len(chunk.tokens) for _, chunk in chunks if isinstance(chunk, Delta))
    assert usage == {
        "prompt_tokens": 3 * prompts,
        "completion_tokens": generated,
        "total_tokens": 3 * prompts + generated,
    }


def test_no_usage_in_a_stream_unless_it_was_asked_for():
    run = (1, 1, [(0, _delta(0, "a")), (0, Finished(index=0, reason="stop"))])
    assert all("usage" not in part for part in _parts(ChatDialect(logprobs=None), run, include_usage=False))


def test_completion_logprobs_name_the_chosen_token_and_its_rivals():
    run = (1, 1, [(0, _delta(0, "a", logprobs=True)), (0, Finished(index=0, reason="stop"))])
    logprobs = _whole(CompletionDialect(logprobs=1), run)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a"]
    assert logprobs["token_logprobs"] == [-0.5]
    assert logprobs["top_logprobs"] == [{"?": -0.1, "a": -0.5}]
    assert _whole(CompletionDialect(logprobs=0), run)["choices"][0]["logprobs"]["top_logprobs"] is None


def test_chat_logprobs_have_exactly_the_wished_number_of_rivals():
    run = (1, 1, [(0, _delta(0, "é", logprobs=True)), (0, Finished(index=0, reason="stop"))])
    (entry,) = _whole(ChatDialect(logprobs=1), run)["choices"][0]["logprobs"]["content"]
    assert (entry["token"], entry["bytes"]) == ("é", [0xC3, 0xA9])
    assert [rival["token"] for rival in entry["top_logprobs"]] == ["?"]


def test_what_served_is_what_the_engine_says():
    assert served_by([_start()], wished=DIGEST, base="tiny") == DIGEST
    assert served_by([_start(revision=None)], wished=None, base="tiny") == "base:tiny"


@pytest.mark.parametrize(
    ("found", "wished"), [(None, DIGEST), (DIGEST, None), (Digest("sha256:" + "b" * 64), DIGEST)]
)
def test_an_answer_of_another_revision_is_withheld(found, wished):
    with pytest.raises(WrongRevision):
        served_by([_start(revision=found)], wished=wished, base="tiny")


def test_an_aborted_completion_is_an_error():
    check_unbroken(Finished(index=0, reason="length"))
    with pytest.raises(Unavailable):
        check_unbroken(Finished(index=0, reason="abort"))


@pytest.mark.parametrize(
    ("error", "status", "param", "code"),
    [
        (NotFound(kind="policy", name="x"), 404, "model", "model_not_found"),
        (InvalidField(field="n", problem="bad"), 400, "n", "invalid_field"),
        (Unauthorized(problem="no"), 401, None, "invalid_api_key"),
        (Overloaded(what="q", depth=3, retry_after_seconds=2), 429, None, "overloaded"),
        (Unavailable(what="the engine", problem="x"), 503, None, "unavailable"),
    ],
)
def test_errors_have_the_openai_shape(error, status, param, code):
    body = error_body(error)["error"]
    assert error_status(error) == status
    assert (body["param"], body["code"], body["message"]) == (param, code, str(error))
    assert body["type"].endswith("_error")


@pytest.mark.parametrize(
    ("internal", "public"),
    [
        ("sampling.n", "n"),
        ("sampling.max_new_tokens", "max_tokens"),
        ("text", "prompt"),
        ("messages", "messages"),
    ],
)
def test_what_the_engine_refuses_has_the_name_that_the_user_gave(internal, public):
    body = error_body(InvalidField(field=internal, problem="too much"))["error"]
    assert body["param"] == public
    assert body["message"] == f"Field {public!r}: too much"
