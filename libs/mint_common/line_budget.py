"""Limit the log lines that callers cause, so that a flood of bad requests does not fill a disk."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class LineBudget:
    """Allows ``per_second`` lines in each second, and counts those that it does not allow."""

    per_second: int
    _second: int = 0
    _written: int = 0
    _skipped: int = 0

    def take(self, now: float) -> int | None:
        """Return None when no line may be written now, else how many were skipped since the last one."""
        if int(now) != self._second:
            self._second, self._written = int(now), 0
        if self._written >= self.per_second:
            self._skipped += 1
            return None
        self._written += 1
        skipped, self._skipped = self._skipped, 0
        return skipped
