"""The parts of a stack and the orders in which they start and stop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from mint_common.errors import InvalidField


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPart:
    """One supervised process. It starts once every part in ``needs`` is ready.

    ``ready_seconds`` bounds one start; ``stop_seconds`` is how long it may take to end before SIGKILL.
    A part that was ready and answers nothing for ``silent_seconds`` hangs: it is ended and started again.
    """

    name: str
    needs: tuple[str, ...] = ()
    ready_seconds: float = 60.0
    stop_seconds: float = 15.0
    silent_seconds: float = 120.0


def start_levels(parts: Sequence[StackPart]) -> tuple[tuple[str, ...], ...]:
    """Return the names in levels: each needs only names of earlier levels, and is as early as it can be.

    Raises InvalidField for a need that is no part, a name used twice, or a circle.
    """
    names = [part.name for part in parts]
    for part in parts:
        if names.count(part.name) > 1:
            raise InvalidField(field=part.name, problem="two parts have this name")
        for need in part.needs:
            if need not in names:
                raise InvalidField(field=part.name, problem=f"needs {need!r}, which is no part")
    sorter = TopologicalSorter({part.name: part.needs for part in parts})
    try:
        sorter.prepare()
    except CycleError as error:
        raise InvalidField(
            field=error.args[1][0], problem="needs itself through a circle of parts"
        ) from error
    levels = []
    while sorter.is_active():
        levels.append(sorter.get_ready())
        sorter.done(*levels[-1])
    return tuple(levels)


def stop_levels(parts: Sequence[StackPart]) -> tuple[tuple[str, ...], ...]:
    """Return the levels in which to stop: the reverse, so that nothing loses a part that it needs."""
    return tuple(reversed(start_levels(parts)))


def may_start(part: StackPart, ready: Mapping[str, bool]) -> bool:
    """Say whether everything that a part needs is ready."""
    return all(ready[need] for need in part.needs)
