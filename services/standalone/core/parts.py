"""The parts of a stack, and their order of start and stop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from mint_common.errors import InvalidField


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPart:
    """One supervised process. It starts when all parts in ``needs`` are ready.

    ``ready_seconds`` limits one start, ``stop_seconds`` the time to end before SIGKILL. A ready part without
    an answer for ``silent_seconds`` hangs and is restarted.
    """

    name: str
    needs: tuple[str, ...] = ()
    ready_seconds: float = 60.0
    stop_seconds: float = 15.0
    silent_seconds: float = 120.0


def start_levels(parts: Sequence[StackPart]) -> tuple[tuple[str, ...], ...]:
    """Return the names in levels: each needs only earlier levels, and is as early as possible.

    Raises InvalidField for an unknown need, a name used twice, or a cycle.
    """
    names = [part.name for part in parts]
    for part in parts:
        if names.count(part.name) > 1:
            raise InvalidField(field=part.name, problem="two parts have this name")
        for need in part.needs:
            if need not in names:
                raise InvalidField(field=part.name, problem=f"needs {need!r}, which is not a part")
    sorter = TopologicalSorter({part.name: part.needs for part in parts})
    try:
        sorter.prepare()
    except CycleError as error:
        raise InvalidField(field=error.args[1][0], problem="needs itself through a cycle of parts") from error
    levels = []
    while sorter.is_active():
        levels.append(sorter.get_ready())
        sorter.done(*levels[-1])
    return tuple(levels)


def stop_levels(parts: Sequence[StackPart]) -> tuple[tuple[str, ...], ...]:
    """Return the levels of the stop order: the reverse, so that no part loses one that it needs."""
    return tuple(reversed(start_levels(parts)))


def may_start(part: StackPart, ready: Mapping[str, bool]) -> bool:
    """Return whether all parts that a part needs are ready."""
    return all(ready[need] for need in part.needs)
