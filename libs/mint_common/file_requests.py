"""Requests and answers about files, uploads and previews, as the public API has them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictInt

from mint_common.algorithms import one_of
from mint_common.datasets import Format, Method, Problem, Repeats
from mint_common.examples import body_config
from mint_common.ids import BaseName
from mint_common.json_types import JsonObject

MAX_PREVIEW_ROWS = 20

PURPOSES = ("fine-tune", "evals", "user_data")
"""Purposes of uploaded files; a file for fine-tune is checked as rows."""
OTHER_PURPOSES = ("assistants", "assistants_output", "batch", "batch_output", "fine-tune-results", "vision")
"""OpenAI's, which no file here has: a list of them is empty."""

Name = Annotated[str, Field(max_length=255)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiresAfter:
    """How long a file is kept."""

    anchor: Annotated[str, Field(max_length=40)]
    seconds: StrictInt


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadBody:
    """A file that is going to come in parts."""

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"filename": "train.jsonl", "purpose": "fine-tune", "bytes": 4096, "mime_type": "application/jsonl"}
    )

    filename: Name
    purpose: Annotated[Name, Field(json_schema_extra=one_of(PURPOSES))]
    bytes: StrictInt
    mime_type: Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]
    expires_after: ExpiresAfter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteBody:
    """The parts in their order, and the md5 of the whole in hexadecimal if it is to be compared."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"part_ids": ["part_2q3vnj5o6pmewm2ht6yq4x7k5a"]})

    part_ids: Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(max_length=1000)]
    md5: Annotated[str | None, Field(max_length=32)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUse:
    """A job and what it reads a file for."""

    job: str
    status: str
    policy: str
    use: Literal["training", "validation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUse:
    """What used a file. ``jobs`` are the newest of all ``job_count``.

    ``revisions`` are the newest that were trained on it, of all ``revision_count``, in which a step of a job
    whose steps were not read counts as one. What a policy is trained on later goes on from them.
    """

    jobs: tuple[JobUse, ...]
    job_count: int
    revisions: tuple[str, ...]
    revision_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileView:
    """A file. ``format``, ``rows`` and ``repeats`` are of rows: those equal to an earlier one are repeats.

    ``used_by`` has the jobs that read it, and the revisions that were trained on it.
    """

    file_id: str
    filename: str
    purpose: str
    sha256: str
    size_bytes: int
    created_at: float
    expires_at: float | None
    format: Format | None
    rows: int | None
    repeats: int | None
    used_by: FileUse


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewBody:
    """Which rows, and how they would be trained; without a method by that of the file's format.

    With a ``validation_file`` its rows that the file has too are told.
    """

    __pydantic_config__: ClassVar[JsonObject] = body_config({"base": "smollm2", "n": 3})

    base: Annotated[str, Field(max_length=100)]
    method: Method | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MAX_PREVIEW_ROWS)] = 3
    first_line: Annotated[StrictInt, Field(ge=1, le=1 << 40)] = 1
    max_tokens: Annotated[StrictInt | None, Field(ge=1, le=1 << 40)] = None
    validation_file: Annotated[str | None, Field(max_length=200)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewExample:
    """One sequence. ``trained`` has [start, end) of the tokens that are trained."""

    side: str
    text: str
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    trained: tuple[tuple[int, int], ...]
    trained_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewRow:
    """The examples of a row; ``label`` is a KTO row's."""

    line: int
    examples: tuple[PreviewExample, ...]
    label: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Rows as they are trained. Nothing is cut: a row with an example over ``max_tokens`` is a problem.

    ``left_out`` are lines that would have made the preview too large, or take too long. ``shared`` are the
    rows of a validation file that the file has too, as (its line, the file's line).
    """

    base: BaseName
    method: Method
    max_tokens: int
    rows: tuple[PreviewRow, ...]
    problems: tuple[Problem, ...]
    left_out: tuple[int, ...]
    shared: Repeats | None
