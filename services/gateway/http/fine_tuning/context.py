"""What the routes of fine-tuning share."""

from dataclasses import dataclass

from services.gateway.handlers.fine_tuning.creation import JobMaker
from services.gateway.handlers.fine_tuning.file_uses import FileUses
from services.gateway.handlers.fine_tuning.jobs import FineTuningJobs
from services.gateway.handlers.fine_tuning.promotions import Promotions


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuningContext:
    """Jobs on files: what makes, reads and steers them, which files they read, where their results go."""

    maker: JobMaker
    jobs: FineTuningJobs
    uses: FileUses
    promotions: Promotions
