"""Turns of a conversation as examples: the trained tokens are found by their positions, never by their ids.

A turn's prompt is the template's rendering of the messages before it with the beginning of an answer, as an
engine gets it; the turn is what its message adds, up to the stop token. So no tag of a template
is needed, and the context of a trained token is the one that it is sampled in.
"""

from dataclasses import dataclass, replace

from mint_common.datasets import RenderedExample, RowProblem
from mint_common.datasets.rendered import Side
from services.trainer.core.rendering.conversations import Conversation
from services.trainer.core.rendering.template import ChatTemplate, JsonObject

MAX_TURNS = 256
"""Trained turns of a row: each is rendered from the beginning."""


class RowTooLong(RowProblem):
    """An example is longer than it may be."""

    def __init__(self, found: int, most: int) -> None:
        super().__init__("too_long", f"an example has {found} tokens, {most} is the most")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderLimits:
    """The most tokens of an example, and of all examples of a row together."""

    example_tokens: int
    row_tokens: int


def render_conversation(
    template: ChatTemplate, talk: Conversation, *, side: Side, limits: RenderLimits
) -> list[RenderedExample]:
    """Return the examples that train a conversation's turns, as few as are exact.

    There is one for each trained turn, but for those that a later one begins with, token by token: they are
    trained within it. Raises RowProblem, RowTooLong.
    """
    if len(talk.trained) > MAX_TURNS:
        raise RowProblem("too_many_turns", f"{len(talk.trained)} trained turns, {MAX_TURNS} is the most")
    found: list[RenderedExample] = []
    # The last one first: a row that is too long ends here, and a turn that is part of another is not kept.
    for place in reversed(talk.trained):
        turn = _turn(template, talk, place, side, limits.example_tokens)
        if found and _begins(turn, found[-1]):
            found[-1] = replace(found[-1], trained=(*turn.trained, *found[-1].trained))
            continue
        found.append(turn)
        total = sum(len(example.tokens) for example in found)
        if total > limits.row_tokens:
            problem = f"its examples have more than {limits.row_tokens} tokens together"
            raise RowProblem("too_many_tokens", problem)
    return found[::-1]


def render_prompt(template: ChatTemplate, talk: Conversation, *, max_tokens: int) -> RenderedExample:
    """Return a conversation that is answered by sampling. Raises RowProblem, RowTooLong."""
    tokens = template.encode_rendered(template.render(talk.messages, talk.tools, begins_answer=True))
    return fitting(RenderedExample(side="prompt", tokens=tokens, trained=()), max_tokens)


def render_completion(
    template: ChatTemplate, prompt: str, completion: str, *, side: Side, max_tokens: int
) -> RenderedExample:
    """Return a plain text after a plain prompt, uncut, with an end. Raises RowProblem, RowTooLong."""
    before = template.encode_plain(prompt)
    whole = template.encode_plain(prompt + completion)
    tokens = _continued(template, before, whole, completion)
    return fitting(_ended(template, tokens, start=len(before), side=side), max_tokens)


def render_text(template: ChatTemplate, text: str, *, max_tokens: int) -> RenderedExample:
    """Return a plain text of which everything is trained, uncut, with an end. Raises RowTooLong."""
    tokens = template.encode_plain(text)
    start = int(tokens[:1] == (template.bos_id,))
    return fitting(_ended(template, tokens, start=start, side="answer"), max_tokens)


def fitting(example: RenderedExample, max_tokens: int) -> RenderedExample:
    """Return an example that is not too long. Raises RowTooLong."""
    if len(example.tokens) > max_tokens:
        raise RowTooLong(len(example.tokens), max_tokens)
    return example


def _turn(
    template: ChatTemplate, talk: Conversation, place: int, side: Side, max_tokens: int
) -> RenderedExample:
    prompt = template.render(talk.messages[:place], talk.tools, begins_answer=True)
    whole = template.render(talk.messages[: place + 1], talk.tools, begins_answer=False)
    if not whole.startswith(prompt):
        problem = f"the chat template renders messages[{place}] otherwise than an answer to those before it"
        raise RowProblem("not_an_answer", problem)
    answer = whole[len(prompt) :]
    _check_complete(talk.messages[place], place, answer)
    before = template.encode_rendered(prompt)
    tokens = _continued(template, before, template.encode_rendered(whole), answer)
    tokens = _to_stop_token(template, tokens, start=len(before))
    return fitting(_ended(template, tokens, start=len(before), side=side), max_tokens)


def _check_complete(message: JsonObject, place: int, answer: str) -> None:
    """Refuse silent omissions of a template: an answer without its call would be trained."""
    calls = message.get("tool_calls", [])
    parts = [call["function"]["name"] for call in calls]
    parts += [message["content"]] if calls else []
    parts += [message.get("reasoning_content", ""), message.get("thinking", "")]
    missing = next((part for part in parts if part.strip() not in answer), None)
    if missing is not None:
        problem = f"the base's chat template leaves {missing.strip()[:40]!r} of messages[{place}] out"
        raise RowProblem("left_out", problem)


def _continued(
    template: ChatTemplate, before: tuple[int, ...], whole: tuple[int, ...], answer: str
) -> tuple[int, ...]:
    """Return the tokens of a prompt followed by those of its answer, none of them across the border."""
    if whole[: len(before)] == before:
        return whole
    # A token of the whole lies across: an engine that is given the prompt could never sample it.
    apart = (*before, *template.encode_rendered(answer))
    if template.decode(apart) != template.decode(whole):
        raise RowProblem("not_an_answer", "the tokenizer does not encode an answer apart from its prompt")
    return apart


def _to_stop_token(template: ChatTemplate, tokens: tuple[int, ...], *, start: int) -> tuple[int, ...]:
    """Return the tokens without the white space that a template writes after an answer's stop token."""
    stops = (place for place in reversed(range(start, len(tokens))) if tokens[place] in template.stop_ids)
    end = next(stops, len(tokens)) + 1
    return tokens if template.decode(tokens[end:]).strip() else tokens[:end]


def _ended(template: ChatTemplate, tokens: tuple[int, ...], *, start: int, side: Side) -> RenderedExample:
    """Return the example of all tokens, with an end token appended unless they end with a stop token."""
    has_end = len(tokens) > start and tokens[-1] in template.stop_ids
    ended = tokens if has_end else (*tokens, template.eos_id)
    return RenderedExample(side=side, tokens=ended, trained=((start, len(ended)),))


def _begins(turn: RenderedExample, following: RenderedExample) -> bool:
    is_before = turn.trained[-1][1] <= following.trained[0][0]
    return is_before and following.tokens[: len(turn.tokens)] == turn.tokens
