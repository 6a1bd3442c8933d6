"""Opens a tracker by its name."""

from collections.abc import Mapping
from pathlib import Path

from mint_client.adapters.trackers.mlflow import MlflowTracker
from mint_client.adapters.trackers.tensorboard import TensorBoardTracker
from mint_client.adapters.trackers.tracker import Tracker
from mint_client.adapters.trackers.trackio import TrackioTracker
from mint_client.adapters.trackers.wandb import WandbTracker
from mint_client.core.tracking import TrackerKind
from mint_common.errors import InvalidField


def place_of(to: TrackerKind, at: str, environ: Mapping[str, str]) -> str:
    """Return where a tracker is: a URL, or an absolute folder. Raises InvalidField."""
    usual = {
        TrackerKind.MLFLOW: environ.get("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000"),
        TrackerKind.WANDB: environ.get("WANDB_DIR", "."),
        TrackerKind.TRACKIO: environ.get("TRACKIO_DIR", "~/.cache/huggingface/trackio"),
        TrackerKind.TENSORBOARD: "runs",
    }
    place = at or usual[to]
    is_url = place.startswith(("http://", "https://"))
    if is_url is not (to is TrackerKind.MLFLOW):
        problem = "is a URL of a server, http:// or https://" if to is TrackerKind.MLFLOW else "is a folder"
        raise InvalidField(field="--at", problem=f"{problem}, got {place!r}")
    return place if is_url else str(Path(place).expanduser().absolute())


def open_tracker(to: TrackerKind, place: str, project: str, environ: Mapping[str, str]) -> Tracker:
    """Return a tracker's adapter. Raises ExtraMissingError without its package."""
    match to:
        case TrackerKind.MLFLOW:
            return MlflowTracker(place, project, environ)
        case TrackerKind.WANDB:
            return WandbTracker(Path(place), project)
        case TrackerKind.TRACKIO:
            return TrackioTracker(Path(place), project)
        case TrackerKind.TENSORBOARD:
            return TensorBoardTracker(Path(place))
