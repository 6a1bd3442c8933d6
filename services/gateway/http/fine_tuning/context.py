"""What the routes of fine-tuning share."""

from dataclasses import dataclass

from services.gateway.handlers.fine_tuning.creation import JobMaker
from services.gateway.handlers.fine_tuning.file_uses import FileUses
from services.gateway.handlers.fine_tuning.jobs import FineTuningJobs


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuningContext:
    """Jobs on files: what makes them, what reads and steers them, and which files they read."""

    maker: JobMaker
    jobs: FineTuningJobs
    uses: FileUses
