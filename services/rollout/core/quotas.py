"""Quotas of a tenant's jobs."""

from dataclasses import dataclass

from mint_common.quotas import QuotaUse, check_quota, quota_use


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUsage:
    """A tenant's jobs: the number of open ones, and the trainer seconds of steps in a day."""

    open_jobs: int
    trainer_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuotas:
    """Their limits. A tenant without ``trainer_seconds`` left starts no more jobs."""

    open_jobs: int
    trainer_seconds: float

    def check(self, usage: JobUsage) -> None:
        """Refuse another job. Raises QuotaExceeded."""
        check_quota(
            usage.open_jobs,
            limit=self.open_jobs,
            what="open jobs",
            remedy="cancel some, or wait for their end",
        )
        check_quota(
            usage.trainer_seconds,
            limit=self.trainer_seconds,
            what="seconds of training in 24 hours",
            remedy="submit it later",
        )

    def uses(self, usage: JobUsage) -> list[QuotaUse]:
        """Return a tenant's use beside these limits."""
        return [
            quota_use("open_jobs", usage.open_jobs, limit=self.open_jobs),
            quota_use("job_seconds", usage.trainer_seconds, limit=self.trainer_seconds),
        ]
