"""The port of an experiment tracker."""

from typing import Protocol

from mint_client.core.tracking import TrackedModel, TrackedRun


class Tracker(Protocol):
    """One tracker. A method records what the tracker lacks, so that a repeat adds nothing.

    Raises TrackerAwayError when the tracker does not answer or cannot store anything, and
    TrackerRefusedError when it does not take this run or this model.
    """

    def record(self, run: TrackedRun) -> None:
        """Record a run as it is now."""
        ...

    def register(self, model: TrackedModel) -> None:
        """Register the versions and aliases of a model. A tracker without models does nothing."""
        ...

    def close(self) -> None:
        """Write what is buffered."""
        ...
