"""Opens a tracker by its name."""

from pathlib import Path

from mint_client.adapters.trackers.tensorboard import TensorBoardTracker
from mint_client.adapters.trackers.tracker import Tracker
from mint_client.core.tracking import TrackerKind


def open_tracker(to: TrackerKind, folder: Path) -> Tracker:
    """Return a tracker's adapter. Raises ExtraMissingError without its package."""
    match to:
        case TrackerKind.TENSORBOARD:
            return TensorBoardTracker(folder)
