"""Quotas: how much of something a tenant may have."""

from mint_common.errors import MintError


class QuotaExceeded(MintError):
    """You have {used:g} {what}, and may have {limit:g}: {remedy}."""

    code = "quota_exceeded"
    http_status = 422


def check_quota(used: float, *, limit: float, what: str, remedy: str) -> None:
    """Refuse more of ``what`` to a tenant that has ``limit`` of it. Raises QuotaExceeded."""
    if used >= limit:
        raise QuotaExceeded(used=used, what=what, limit=limit, remedy=remedy)
