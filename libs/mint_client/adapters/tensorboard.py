"""Event files of TensorBoard, by tensorboardX, which is an extra of the installation."""

import json
import secrets
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mint_client.core.job_curves import Scalar
from mint_client.core.refusals import ExtraMissingError

_LENGTH = struct.Struct("<QI")
"""A record of an event file: length, its checksum, data, and a checksum of 4 bytes."""


def write_tensorboard(folder: Path, scalars: Iterable[Scalar], settings: Mapping[str, Any]) -> int:  # JSON
    """Write scalars and a job's settings into a folder; return how many scalars. Raises ExtraMissingError."""
    file = EventFile(folder, option="--tensorboard")
    file.add_settings(settings)
    count = file.add(scalars)
    file.close()
    return count


class EventFile:
    """A new event file in a folder, written as it is called: tensorboardX's SummaryWriter loses what a kill
    finds in its queue, and the errors of its disk.
    """

    def __init__(self, folder: Path, *, option: str) -> None:
        """Raise ExtraMissingError without tensorboardX, and name the ``option`` that needs it."""
        check_tensorboard(option)
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(parents=True, exist_ok=True)
        # Files are named by the second: without a suffix the next one could replace this one.
        self._writer = EventsWriter(str(folder / "events"), f".{secrets.token_hex(4)}")

    def add_settings(self, settings: Mapping[str, Any]) -> None:  # JSON
        """Write a job's settings as a text."""
        from tensorboardX.summary import text

        self._write(text("job", f"```json\n{json.dumps(settings, indent=2)}\n```"), step=0, at=None)

    def add(self, scalars: Iterable[Scalar]) -> int:
        """Write scalars to the disk; return how many."""
        from tensorboardX.proto.summary_pb2 import Summary

        count = 0
        for each in scalars:
            summary = Summary(value=[Summary.Value(tag=each.name, simple_value=each.value)])
            self._write(summary, step=each.step, at=each.at)
            count += 1
        self._writer.flush()
        return count

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, summary: Any, *, step: int, at: float | None) -> None:  # tensorboardX has no types
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=at or time.time(), step=step, summary=summary))


def check_tensorboard(option: str) -> None:
    """Raise ExtraMissingError without tensorboardX: only an ``option`` of `mint` needs it."""
    try:
        import tensorboardX  # noqa: F401  # an extra
    except ImportError as error:
        raise ExtraMissingError(option=option, package="tensorboardX") from error


def logged_in(folder: Path) -> set[tuple[str, int]]:
    """Return the tag and the step of everything in the event files of a folder."""
    found: set[tuple[str, int]] = set()
    for file in folder.glob("events.out.tfevents.*"):
        for event in _events(file):
            found |= {(value.tag, event.step) for value in event.summary.value}
    return found


def _events(file: Path) -> Iterator[Any]:  # tensorboardX's Event
    """Yield the events of a file; what a killed writer left of a last one is none."""
    from tensorboardX.proto.event_pb2 import Event

    with file.open("rb") as records:
        while len(head := records.read(_LENGTH.size)) == _LENGTH.size:
            length, _ = _LENGTH.unpack(head)
            data, checksum = records.read(length), records.read(4)
            if len(checksum) < 4:
                return
            yield Event.FromString(data)
