"""Rows of every format as examples."""

from collections.abc import Sequence
from dataclasses import replace

from mint_common.datasets import (
    FORMATS,
    Method,
    Problem,
    RenderedExample,
    RenderedRow,
    Rendering,
    RenderRequest,
    RowLine,
    RowProblem,
    decode_line,
)
from mint_common.datasets.reading import told_format, typed_row
from mint_common.datasets.rendered import Side
from mint_common.datasets.rows import (
    ChatRow,
    CompletionRow,
    KtoRow,
    PairRow,
    PreferenceRow,
    RewardRow,
    Row,
    RowMessage,
    TextRow,
)
from services.trainer.core.rendering.conversations import conversation
from services.trainer.core.rendering.template import ChatTemplate, JsonObject, OutOfTime
from services.trainer.core.rendering.turns import (
    RenderLimits,
    RowTooLong,
    render_completion,
    render_conversation,
    render_prompt,
    render_text,
)


def render_rows(template: ChatTemplate, request: RenderRequest, *, max_context: int) -> Rendering:
    """Return each row's rendering; a wrong row does not affect others.

    When the template exceeds its time, the current row and later ones are left out.
    """
    limits = RenderLimits(
        example_tokens=min(request.max_tokens or max_context, max_context), row_tokens=request.token_limit
    )
    rows: list[RenderedRow] = []
    problems: list[Problem] = []
    dropped: list[int] = []
    left_out: list[int] = []
    total = 0
    for place, each in enumerate(request.rows):
        if total >= request.token_limit:
            left_out.append(each.line)
            continue
        try:
            row = render_row(template, each, request.method, limits)
            shown = _with_texts(template, row) if request.with_texts else row
        except OutOfTime:
            left_out += [later.line for later in request.rows[place:]]
            break
        except RowProblem as problem:
            if isinstance(problem, RowTooLong) and request.on_long == "drop":
                dropped.append(each.line)
            else:
                problems.append(Problem(line=each.line, code=problem.code, message=problem.message))
        else:
            total += sum(len(example.tokens) for example in row.examples)
            rows.append(shown)
    return Rendering(
        rows=tuple(rows),
        problems=tuple(problems),
        dropped=tuple(dropped),
        left_out=tuple(left_out),
        max_tokens=limits.example_tokens,
    )


def render_row(template: ChatTemplate, line: RowLine, method: Method, limits: RenderLimits) -> RenderedRow:
    """Return a row's examples. Raises RowProblem, RowTooLong."""
    raw = decode_line(line.data)
    kind = told_format(raw)
    if kind not in FORMATS[method]:
        problem = f"the row is {kind}; {method} trains on {', '.join(sorted(FORMATS[method]))}"
        raise RowProblem("wrong_format", problem)
    row = typed_row(raw, kind)
    examples = _Renderer(template, raw, limits).examples(row)
    return RenderedRow(
        line=line.line, examples=tuple(examples), label=row.label if isinstance(row, KtoRow) else None
    )


class _Renderer:
    """Renders one row; ``raw`` is the row as it was decoded."""

    def __init__(self, template: ChatTemplate, raw: JsonObject, limits: RenderLimits) -> None:
        self._template = template
        self._raw = raw
        self._limits = limits

    def examples(self, row: Row) -> list[RenderedExample]:
        match row:
            case ChatRow():
                return self._turns([], row.messages, "answer")
            case TextRow():
                return [render_text(self._template, row.text, max_tokens=self._limits.example_tokens)]
            case CompletionRow() | KtoRow():
                return self._answered(row.prompt, row.completion, "answer")
            case PairRow():
                asked = row.input.messages
                preferred = self._turns(asked, row.preferred_output, "chosen")
                return preferred + self._turns(asked, row.non_preferred_output, "rejected")
            case PreferenceRow():
                chosen = self._answered(row.prompt, row.chosen, "chosen")
                return chosen + self._answered(row.prompt, row.rejected, "rejected")
            case RewardRow():
                talk = conversation(self._template, row.messages, [], self._raw.get("tools"))
                return [render_prompt(self._template, talk, max_tokens=self._limits.example_tokens)]

    def _answered(
        self, prompt: str | list[RowMessage], answer: str | list[RowMessage], side: Side
    ) -> list[RenderedExample]:
        if isinstance(prompt, str) and isinstance(answer, str):
            return [
                render_completion(
                    self._template, prompt, answer, side=side, max_tokens=self._limits.example_tokens
                )
            ]
        assert isinstance(prompt, list)  # checked with its row, as is that both are lists
        assert isinstance(answer, list)
        return self._turns(prompt, answer, side)

    def _turns(
        self, prompt: Sequence[RowMessage], answer: Sequence[RowMessage], side: Side
    ) -> list[RenderedExample]:
        tools = self._raw.get("tools", self._raw.get("input", {}).get("tools"))
        talk = conversation(self._template, prompt, answer, tools)
        return render_conversation(self._template, talk, side=side, limits=self._limits)


def _with_texts(template: ChatTemplate, row: RenderedRow) -> RenderedRow:
    examples = [
        replace(
            example,
            text=template.decode(example.tokens),
            texts=tuple(template.decode((token,)) for token in example.tokens),
        )
        for example in row.examples
    ]
    return replace(row, examples=tuple(examples))
