"""Rows that policies are trained on: formats of JSONL files, and how a file is checked."""

from mint_common.datasets.check import (
    MAX_PROBLEMS,
    MAX_ROWS,
    DatasetCheck,
    DatasetReport,
    Problem,
    check_file,
)
from mint_common.datasets.formats import Format, format_of
from mint_common.datasets.lines import MAX_LINE_BYTES
from mint_common.datasets.reading import read_row
from mint_common.datasets.repeats import Repeats, RowDigests, shared_rows
from mint_common.datasets.rows import (
    MAX_DEPTH,
    ChatRow,
    CompletionRow,
    KtoRow,
    Message,
    PairRow,
    PreferenceRow,
    RewardRow,
    Row,
    RowProblem,
    TextRow,
    Tool,
    ToolCall,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_LINE_BYTES",
    "MAX_PROBLEMS",
    "MAX_ROWS",
    "ChatRow",
    "CompletionRow",
    "DatasetCheck",
    "DatasetReport",
    "Format",
    "KtoRow",
    "Message",
    "PairRow",
    "PreferenceRow",
    "Problem",
    "Repeats",
    "RewardRow",
    "Row",
    "RowDigests",
    "RowProblem",
    "TextRow",
    "Tool",
    "ToolCall",
    "check_file",
    "format_of",
    "read_row",
    "shared_rows",
]
