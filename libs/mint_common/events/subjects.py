"""Names on the bus. A subject is ``mint.<noun>.<verb>.<tenant>.<base>``; all of them live in one stream."""

from collections.abc import Iterable

from mint_common.events.event import Event, subject_token

STREAM = "MINT"
STREAM_SUBJECTS = "mint.>"


def subjects_of(event_type: type[Event], *, tenant: str | None = None, base: str | None = None) -> str:
    """Return the subject filter for a type of event. None stands for every tenant, every base."""
    return f"mint.{event_type.type}.{_filter(tenant)}.{_filter(base)}"


def grown(known: Iterable[str], more: Iterable[str]) -> list[str]:
    """Return filters that let through what either do; none of them covers another, which NATS refuses."""
    given = {*known, *more}
    return sorted(name for name in given if not any(other != name and covers(other, name) for other in given))


def covers(wide: str, narrow: str) -> bool:
    """Return whether a filter lets through a subject, or all that another filter does, as NATS reads it."""
    wanted, tokens = wide.split("."), narrow.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(
        want in ("*", token) for want, token in zip(wanted, tokens, strict=True)
    )


def _filter(name: str | None) -> str:
    return "*" if name is None else subject_token(name)
