"""The recorded run that `mint up --demo` replays: a stack's backup, packed beside its description.

Invariant: what is unpacked has the sha256 that the description names.
"""

import contextlib
import hashlib
import io
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mint_client.core.refusals import LocalFailureError
from mint_common.ids import Digest

FOLDER = Path(__file__).parents[1] / "recordings"
ARCHIVE, DESCRIPTION = "demo.tar.gz", "demo.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """``demo.json``: the archive's ``sha256``, and what was recorded, when and by which version of MinT.

    ``recorded_on`` is a date in UTC; ``digest`` is that of the base.
    """

    sha256: str
    recorded_on: str
    version: str
    base: str
    digest: Digest
    policies: tuple[str, ...]


def read_recording(folder: Path = FOLDER) -> Recording:
    """Return the description of a folder's recording."""
    return msgspec.json.decode((folder / DESCRIPTION).read_bytes(), type=Recording)


@contextlib.contextmanager
def unpacked(folder: Path = FOLDER) -> Iterator[Path]:
    """Yield a folder with the backup that was recorded. Raises LocalFailureError: other bytes."""
    file = folder / ARCHIVE
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != read_recording(folder).sha256:
        problem = "it is not the recording of this version; install MinT again"
        raise LocalFailureError(what=str(file), problem=problem)
    with tempfile.TemporaryDirectory(prefix="mint-demo-") as name:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            archive.extractall(name, filter="data")
        yield Path(name)
