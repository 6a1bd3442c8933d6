"""Rows that policies are trained on: formats of JSONL files, and what is told of a file.

`check`, which checks a file, and `repeats` are imported by name: they load numpy, which these words need not.
"""

from mint_common.datasets.formats import FORMATS, Format, Method, format_of, method_of
from mint_common.datasets.lines import MAX_LINE_BYTES
from mint_common.datasets.reading import decode_line, read_row, told_format, typed_row
from mint_common.datasets.rendered import (
    OnLong,
    RenderedExample,
    RenderedRow,
    Rendering,
    RenderRequest,
    RowLine,
    Side,
)
from mint_common.datasets.report import MAX_PROBLEMS, DatasetReport, Problem, Repeats
from mint_common.datasets.rows import (
    MAX_DEPTH,
    ChatRow,
    CompletionRow,
    KtoRow,
    PairRow,
    PreferenceRow,
    RewardRow,
    Row,
    RowMessage,
    RowProblem,
    TextRow,
    Tool,
    ToolCall,
    arguments_of,
)

__all__ = [
    "FORMATS",
    "MAX_DEPTH",
    "MAX_LINE_BYTES",
    "MAX_PROBLEMS",
    "ChatRow",
    "CompletionRow",
    "DatasetReport",
    "Format",
    "KtoRow",
    "Method",
    "OnLong",
    "PairRow",
    "PreferenceRow",
    "Problem",
    "RenderRequest",
    "RenderedExample",
    "RenderedRow",
    "Rendering",
    "Repeats",
    "RewardRow",
    "Row",
    "RowLine",
    "RowMessage",
    "RowProblem",
    "Side",
    "TextRow",
    "Tool",
    "ToolCall",
    "arguments_of",
    "decode_line",
    "format_of",
    "method_of",
    "read_row",
    "told_format",
    "typed_row",
]
