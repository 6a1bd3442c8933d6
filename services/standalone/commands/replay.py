"""`mint up --demo`: a new stack filled with the recorded run."""

from collections.abc import Sequence
from pathlib import Path

from mint_common.adapters_format import read_base_facts
from mint_common.errors import InvalidField
from services.standalone.adapters.backup import DatabaseInUse
from services.standalone.adapters.recording import FOLDER, Recording, read_recording, unpacked
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.commands.backup import restored
from services.standalone.core.plan import BaseAt
from services.standalone.core.refusals import StackHasDataError


def replay(state: StateFolder, bases: Sequence[BaseAt], *, folder: Path = FOLDER) -> Recording:
    """Fill an empty stack, which runs with some bases, with a recorded run; return its description.

    Raises StackHasDataError, InvalidField for other bases or a bucket, LocalFailureError and Unavailable.
    """
    recording = read_recording(folder)
    place = next((base.folder for base in bases if base.name == recording.base), None)
    if place is None or read_base_facts(Path(place)).digest != recording.digest:
        problem = f"needs the base {recording.base} with the digest {recording.digest}"
        raise InvalidField(field="--demo", problem=problem)
    try:
        with unpacked(folder) as backup:
            restored(state, backup)
    except DatabaseInUse as error:
        raise StackHasDataError(folder=str(state.root)) from error
    return recording


def told_of(recording: Recording) -> str:
    """Return the line that says what of a stack is a recording."""
    return f"  {', '.join(recording.policies)}: a recording of {recording.recorded_on}, not this stack's work"
