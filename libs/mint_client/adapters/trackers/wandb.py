"""Weights & Biases: a run for each job, a row for each step, revisions as versions of an artifact.

Online, W&B says which rows it has. Offline, the files of a run are a copy that its next writer replaces: what
a killed one had buffered is lost, and nothing at W&B has changed.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mint_client.core.refusals import ExtraMissingError, TrackerAwayError, TrackerRefusedError
from mint_client.core.tracking import TrackedModel, TrackedRun, missing, rows_of

STEP = "train/global_step"
"""Name of the axis, as transformers names it: scores of earlier steps may come late, and W&B's own steps
only grow.
"""


@dataclass(slots=True, kw_only=True)
class _OpenRun:
    run: Any  # wandb's own
    logged: set[tuple[str, int]]
    versions: set[tuple[int, tuple[str, ...]]] = field(default_factory=set)


class WandbTracker:
    """Writes runs by the package wandb, which reads its own variables. Satisfies `Tracker`."""

    def __init__(self, folder: Path, project: str) -> None:
        """Raise ExtraMissingError without wandb."""
        try:
            import wandb  # an extra: no other command needs it
        except ImportError as error:
            raise ExtraMissingError(option="--to wandb", package="wandb") from error
        self._wandb: Any = wandb
        self._folder = folder
        self._project = project
        self._open: dict[str, _OpenRun] = {}

    def record(self, run: TrackedRun) -> None:
        """Log the rows that the run does not have; a run whose job has ended is finished."""
        with self._reported():
            opened = self._open.get(run.job_id) or self._opened(run)
            scalars = missing(run.scalars, opened.logged)
            for step, _, values in rows_of(scalars):
                opened.run.log({STEP: step, **values})
            opened.logged |= {(each.name, each.step) for each in scalars}
            self._log_versions(run, opened)
            opened.run.config.update(dict(run.tags), allow_val_change=True)
            if run.is_ended:
                self._open.pop(run.job_id)
                opened.run.finish(exit_code=0 if run.state == "succeeded" else 1)

    def register(self, model: TrackedModel) -> None:
        """Do nothing: a run has the versions that its job made, with their aliases."""

    def close(self) -> None:
        """Finish what is open; W&B shows the runs as finished until the next row."""
        for opened in self._open.values():
            opened.run.finish()

    def _opened(self, run: TrackedRun) -> _OpenRun:
        told = run.destination
        settings = self._wandb.Settings(
            silent=True, console="off", x_disable_stats=True, disable_git=True, disable_code=True
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        begun = self._wandb.init(
            dir=str(self._folder),
            project=told.get("project") or self._project,
            entity=told.get("entity"),
            id=run.job_id,
            name=told.get("name") or run.name,
            group=run.policy,
            tags=[run.policy, *(told.get("tags") or ())],
            notes=run.notes,
            config=dict(run.config),
            resume="allow",
            reinit="create_new",
            settings=settings,
        )
        begun.define_metric(STEP)
        begun.define_metric("*", step_metric=STEP, step_sync=True)
        is_offline = begun.settings.mode == "offline"
        if is_offline:
            self._drop_older_copies(run.job_id, Path(begun.settings.sync_dir))
        logged = set() if is_offline or not begun.resumed else set(self._read_logged(begun.path))
        self._open[run.job_id] = _OpenRun(run=begun, logged=logged)
        return self._open[run.job_id]

    def _drop_older_copies(self, job_id: str, current: Path) -> None:
        for copy in current.parent.glob(f"offline-run-*-{job_id}"):
            if copy.resolve() != current.resolve():
                shutil.rmtree(copy, ignore_errors=True)

    def _read_logged(self, path: str) -> Iterator[tuple[str, int]]:
        for row in self._wandb.Api().run(path).scan_history():
            yield from (
                (name, int(row[STEP])) for name, value in row.items() if STEP in row and value is not None
            )

    def _log_versions(self, run: TrackedRun, opened: _OpenRun) -> None:
        """Log revisions as links. W&B knows equal contents: a repeat only moves the aliases.

        W&B's own alias `latest` goes to what was logged last, so that has to be the newest revision.
        """
        changed = [each for each in run.versions if (each.number, each.aliases) not in opened.versions]
        if changed and changed[-1] != run.versions[-1]:
            changed.append(run.versions[-1])
        for version in changed:
            about = {"number": version.number, "digest": version.digest, "parent": version.parent}
            artifact = self._wandb.Artifact(run.policy, type="model", metadata=about)
            artifact.add_reference(version.url, name="adapter.tar", checksum=False)
            opened.run.log_artifact(artifact, aliases=[f"revision-{version.number}", *version.aliases])
            opened.versions.add((version.number, version.aliases))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        errors = self._wandb.errors
        try:
            yield
        except (errors.CommError, errors.AuthenticationError, OSError) as error:
            raise TrackerAwayError(tracker="W&B", problem=str(error)) from error
        except errors.Error as error:
            raise TrackerRefusedError(tracker="W&B", problem=str(error)) from error
