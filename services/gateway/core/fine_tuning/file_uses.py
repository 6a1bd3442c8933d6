"""What uses a file: jobs, and the revisions that were trained on it. Pure."""

from collections.abc import Mapping

from mint_common.events import JobSpec


def job_files(spec: JobSpec) -> Mapping[str, str]:
    """Return the files that a job reads, each with where its request has it."""
    data = spec.data
    if data is None:
        return {}
    found = {data.training.file_id: "training_file"}
    if data.evaluation is not None and data.evaluation.file is not None:
        found.setdefault(data.evaluation.file.file_id, "validation_file")
    return found
