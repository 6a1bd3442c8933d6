"""TensorBoard: a folder of event files for each job, below a folder of its policy."""

from pathlib import Path

from mint_client.adapters.tensorboard import EventFile, check_tensorboard, logged_in
from mint_client.core.refusals import TrackerAwayError
from mint_client.core.tracking import TrackedModel, TrackedRun, missing


class TensorBoardTracker:
    """Appends to event files, after it has read what is in them. Satisfies `Tracker`."""

    def __init__(self, folder: Path) -> None:
        """Raise ExtraMissingError without tensorboardX."""
        check_tensorboard("--to tensorboard")
        self._root = folder
        self._files: dict[str, EventFile] = {}
        self._logged: dict[str, set[tuple[str, int]]] = {}

    def record(self, run: TrackedRun) -> None:
        """Append the scalars that the event files of a run do not have."""
        try:
            self._append(run, self._root / run.policy / run.job_id)
        except OSError as error:
            # What the file has now is unknown.
            self._forget(run.job_id)
            problem = error.strerror or str(error)
            raise TrackerAwayError(tracker=f"the folder {self._root}", problem=problem) from error
        if run.is_ended:
            self._forget(run.job_id)

    def register(self, model: TrackedModel) -> None:
        """Do nothing: TensorBoard has no models."""

    def close(self) -> None:
        """Close the event files."""
        for job_id in list(self._files):
            self._forget(job_id)

    def _append(self, run: TrackedRun, folder: Path) -> None:
        if run.job_id not in self._logged:
            self._logged[run.job_id] = logged_in(folder)
        logged = self._logged[run.job_id]
        scalars = missing(run.scalars, logged)
        if not scalars:
            return
        file = self._files.get(run.job_id)
        if file is None:
            file = self._files[run.job_id] = EventFile(folder, option="--to tensorboard")
            if not logged:
                file.add_settings({**run.config, **run.tags, **run.links})
        file.add(scalars)
        logged |= {(each.name, each.step) for each in scalars}

    def _forget(self, job_id: str) -> None:
        self._logged.pop(job_id, None)
        file = self._files.pop(job_id, None)
        if file is not None:
            file.close()
