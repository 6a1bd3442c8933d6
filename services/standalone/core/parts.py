"""The parts of a stack, and their order of start and stop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from mint_common.errors import InvalidField
from services.standalone.core.lifecycle import PartState, PartStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPart:
    """One supervised process. It starts when all parts in ``needs`` are ready.

    It stops before these and before the parts that it ``calls``. It does not start before the parts that it
    ``follows`` have been ready once, nor while one of them starts; whether they run later is no matter.

    ``ready_seconds`` limits one start, ``stop_seconds`` the time to end before SIGKILL. A ready part without
    an answer for ``silent_seconds`` hangs and is restarted. The stack starts and stays without a part that is
    ``optional``.
    """

    name: str
    needs: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    ready_seconds: float = 60.0
    stop_seconds: float = 15.0
    silent_seconds: float = 120.0
    optional: bool = False


def start_levels(parts: Sequence[StackPart]) -> tuple[tuple[str, ...], ...]:
    """Return the names in levels: each needs only earlier levels, and is as early as possible.

    Raises InvalidField for an unknown need, a name used twice, or a cycle.
    """
    return _levels({part.name: part.needs for part in parts}, [part.name for part in parts])


def stop_levels(parts: Sequence[StackPart]) -> tuple[tuple[str, ...], ...]:
    """Return the levels of the stop order, in which no part loses one that it needs or calls."""
    later = {part.name: (*part.needs, *part.calls) for part in parts}
    return tuple(reversed(_levels(later, [part.name for part in parts])))


def _levels(before: Mapping[str, Sequence[str]], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    for name in names:
        if names.count(name) > 1:
            raise InvalidField(field=name, problem="two parts have this name")
        for need in before[name]:
            if need not in names:
                raise InvalidField(field=name, problem=f"needs {need!r}, which is not a part")
    sorter = TopologicalSorter(before)
    try:
        sorter.prepare()
    except CycleError as error:
        raise InvalidField(field=error.args[1][0], problem="needs itself through a cycle of parts") from error
    levels = []
    while sorter.is_active():
        levels.append(sorter.get_ready())
        sorter.done(*levels[-1])
    return tuple(levels)


def may_start(part: StackPart, statuses: Mapping[str, PartStatus]) -> bool:
    """Return whether all parts that a part needs are ready, and none that it follows has to start first."""
    needed = (statuses[name].state is PartState.READY for name in part.needs)
    followed = (statuses[name] for name in part.follows)
    return all(needed) and all(
        status.was_ready and status.state is not PartState.STARTING for status in followed
    )
