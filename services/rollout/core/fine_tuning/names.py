"""Names of jobs and of their models, as OpenAI's clients see them."""

import hashlib
import re
from collections.abc import Collection

from mint_common.errors import NotFound
from mint_common.ids import BaseName, JobId
from mint_common.names import MAX_NAME

JOB_PREFIX = "ftjob-"
RESULTS_PREFIX = "file-results-"
"""Prefix of the id of a job's results, which are made from the job when they are read."""

_JOB = re.compile(r"(?:ftjob-|job_)([a-z2-7]{26})", re.ASCII)
_RESULTS = re.compile(r"file-results-([a-z2-7]{26})", re.ASCII)


def shown_id(job_id: JobId) -> str:
    """Return a job's id with OpenAI's prefix: ``ftjob-...``."""
    return JOB_PREFIX + job_id.removeprefix("job_")


def job_id_of(text: str) -> JobId:
    """Return the job that an id names, with OpenAI's prefix or MinT's. Raises NotFound."""
    found = _JOB.fullmatch(text)
    if found is None:
        raise NotFound(kind="job", name=text[:100])
    return JobId(f"job_{found[1]}")


def results_id(job_id: JobId) -> str:
    """Return the id of the file that has a job's results."""
    return RESULTS_PREFIX + job_id.removeprefix("job_")


def job_of_results(file_id: str) -> JobId | None:
    """Return the job whose results a file has, None for any other file."""
    found = _RESULTS.fullmatch(file_id)
    return None if found is None else JobId(f"job_{found[1]}")


def split_model(model: str) -> tuple[str, str | None]:
    """Return the name before ``@``, and the revision or alias after it if there is one."""
    name, at, version = model.partition("@")
    return name, version if at else None


def policy_names(
    base: BaseName, suffix: str | None, job_id: JobId, *, bases: Collection[str] = ()
) -> tuple[str, ...]:
    """Return names for a new policy, best first: ``<base>-<suffix>``, with a part of the job's id.

    None of them is one of ``bases``, and the last one is unique to the job. A suffix keeps only valid
    characters; capital letters become small.
    """
    own = job_id.removeprefix("job_")
    kept = re.sub(r"[^a-z0-9._-]+", "-", (suffix or "").lower()).strip("-")
    plain = f"{base}-{kept}" if kept else base
    marked = [f"{plain[: MAX_NAME - 1 - len(part)]}-{part}" for part in (own[:12], own)]
    return tuple(name for name in (plain[:MAX_NAME], *marked) if name not in bases and name != base)


def seed_of(job_id: JobId) -> int:
    """Return the seed of a job whose request has none: from 0 to 2^31 - 1, the same for a repeat."""
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:4]) >> 1
