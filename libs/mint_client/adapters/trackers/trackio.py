"""trackio: its database of a project, in a folder that `trackio show` reads."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mint_client.core.refusals import ExtraMissingError, TrackerAwayError
from mint_client.core.tracking import TrackedModel, TrackedRun, missing, rows_of


class TrackioTracker:
    """Inserts rows with ids of their own: trackio ignores a row whose id it has. Satisfies `Tracker`."""

    def __init__(self, folder: Path, project: str) -> None:
        """Raise ExtraMissingError without trackio, which reads its folder from a variable."""
        os.environ["TRACKIO_DIR"] = str(folder)
        try:
            from trackio.sqlite_storage import SQLiteStorage  # an extra: no other command needs it
        except ImportError as error:
            raise ExtraMissingError(option="--to trackio", package="trackio") from error
        self._storage: Any = SQLiteStorage  # trackio's own
        self._folder = folder
        self._project = project

    def record(self, run: TrackedRun) -> None:
        """Insert the rows that the run does not have, one a step, and replace its settings."""
        try:
            self._insert(run)
        except OSError as error:
            raise self._away(error) from error
        except Exception as error:
            if type(error).__module__ != "sqlite3":
                raise
            raise self._away(error) from error

    def register(self, model: TrackedModel) -> None:
        """Do nothing: aliases are among the settings of a run."""

    def close(self) -> None:
        """Do nothing: each row is stored at once."""

    def _insert(self, run: TrackedRun) -> None:
        rows = list(rows_of(missing(run.scalars, self._logged(run))))
        if rows:
            self._storage.bulk_log(
                self._project,
                run.name,
                [values for _, _, values in rows],
                steps=[step for step, _, _ in rows],
                timestamps=[
                    datetime.fromtimestamp(at or run.started_at, UTC).isoformat() for _, at, _ in rows
                ],
                config={**run.config, **run.tags, **run.links, "_Group": run.policy},
                log_ids=[f"{run.job_id}:{step}:{','.join(values)}" for step, _, values in rows],
                run_id=run.job_id,
            )

    def _logged(self, run: TrackedRun) -> set[tuple[str, int]]:
        rows = self._storage.get_logs(self._project, run.name, run_id=run.job_id)
        return {(name, row["step"]) for row in rows for name in row}

    def _away(self, error: Exception) -> TrackerAwayError:
        return TrackerAwayError(tracker=f"trackio's folder {self._folder}", problem=str(error))
