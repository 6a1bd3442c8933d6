"""Every task that is installed: the entry points of the group `mint.tasks`."""

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from mint_common.errors import NotFound, TaskFailed, TaskLeftOut
from mint_common.near import near_names
from services.rollout.adapters.tasks.answer_guard import GuardedTask, guarded
from services.rollout.core.task import LeavesOut, Task, TaskFamily

GROUP = "mint.tasks"


def installed_families() -> dict[str, str]:
    """Return the value of the entry point of each family that is installed in this environment."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


class InstalledTasks:
    """Tasks by name. A family's code is imported when one of its tasks is first named or listed."""

    def __init__(self, families: Mapping[str, str]) -> None:
        """Take the value of each family's entry point."""
        points = families.items()
        self._families = {name: EntryPoint(name=name, value=value, group=GROUP) for name, value in points}
        self._tasks: dict[str, Task] = {}
        self.broken: dict[str, str] = {}
        """Families that did not load when they were listed last, and why."""

    def names(self) -> list[str]:
        """Return the name of every task, in order. A family that does not load is left out."""
        names: list[str] = []
        self.broken = {}
        for family in self._families:
            try:
                names += self._names_of(family)
            except TaskFailed as error:
                self.broken[family] = str(error)
        return sorted(names)

    def task(self, name: str) -> Task:
        """Return a task. Raises NotFound naming it, with near matches, TaskLeftOut and TaskFailed."""
        if name not in self._tasks:
            self._tasks[name] = self._make(name)
        return self._tasks[name]

    def _make(self, name: str) -> Task:
        family, _, member = name.partition(":")
        if family not in self._families:
            raise _unknown(name, among=self.names())
        if name not in self._names_of(family):
            reason = self._left_out_of(family).get(member)
            if reason is not None:
                raise TaskLeftOut(task=name, reason=reason)
            raise _unknown(name, among=self.names())
        return GuardedTask(name, lambda: self._load(family)(member))

    def _names_of(self, family: str) -> list[str]:
        members = guarded(family, lambda: self._load(family).members())
        return [f"{family}:{member}" for member in members] or [family]

    def _left_out_of(self, family: str) -> Mapping[str, str]:
        loaded = self._load(family)
        return guarded(family, loaded.left_out) if isinstance(loaded, LeavesOut) else {}

    def _load(self, family: str) -> TaskFamily:
        loaded: TaskFamily = self._families[family].load()
        return loaded


def _unknown(name: str, *, among: Sequence[str]) -> NotFound:
    matches = near_names(name[:100], among, limit=5) or among[:5]
    return NotFound(kind="task", name=name, near=", ".join(matches))
