"""Training rows: formats of JSONL files, and reports about a file."""

from mint_common.datasets.formats import FORMATS, MAX_BATCH, MAX_EPOCHS, Format, Method, method_of
from mint_common.datasets.reading import decode_line
from mint_common.datasets.rendered import (
    OnLong,
    RenderedExample,
    RenderedRow,
    Rendering,
    RenderRequest,
    RowLine,
)
from mint_common.datasets.report import MAX_PROBLEMS, DatasetReport, Problem, Repeats
from mint_common.datasets.rows import RowProblem
