"""The command `mint`, which finds its own package `services` even if other packages have that name too.

`services` is a common name: an entry of PYTHONPATH, a user's folder or another distribution may provide it.
Invariants: nothing of MinT is imported before Python is sure to find MinT's `services`; child processes
find the same one. Standard library only.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path

NAME = "services"
DISTRIBUTION = "mint_stack"


def main() -> None:
    """Run the command line, or end with the reason why `services` is not ours."""
    clear_the_way(own_package())
    import_module("mint_client.cli").main()


def own_package() -> Path:
    """Return the folder of MinT's `services`: beside this package when installed, else one level up."""
    here = Path(__file__).resolve().parent
    beside = here.parent / NAME
    return beside if beside.is_dir() else here.parents[1] / NAME


def clear_the_way(ours: Path) -> None:
    """Leave out what only the environment puts before our package; exit if an installed one is before it."""
    temporary = temporary_entries(os.environ.get("PYTHONPATH", ""), is_safe=sys.flags.safe_path)
    for entry in entries_before(ours, sys.path):
        if _absolute(entry) not in temporary:
            sys.exit(_refusal(ours, Path(entry) / NAME, owners_of(NAME, Path(entry))))
        sys.path.remove(entry)
        os.environ["PYTHONPATH"] = without(os.environ.get("PYTHONPATH", ""), entry)
    others = [owner for owner in owners_of(NAME, ours.parent) if owner != DISTRIBUTION]
    if others:
        sys.exit(_refusal(ours, ours, others))


def entries_before(ours: Path, path: Iterable[str]) -> list[str]:
    """Return the entries of a module search path that provide another `services` and come before ours.

    A folder without an `__init__.py` is not in the way: Python prefers a package wherever it is.
    """
    found = []
    for entry in path:
        spec = PathFinder.find_spec(NAME, [entry])
        if spec is None or spec.origin is None:
            continue
        if Path(spec.origin).resolve() == ours / "__init__.py":
            break
        found.append(entry)
    return found


def temporary_entries(pythonpath: str, *, is_safe: bool) -> set[str]:
    """Return entries of the module search path for this start only: PYTHONPATH, and the script's folder."""
    entries = pythonpath.split(os.pathsep) if pythonpath else []
    return {_absolute(entry) for entry in (entries if is_safe else [*entries, sys.path[0]])}


def without(pythonpath: str, entry: str) -> str:
    """Return a PYTHONPATH without an entry, however it is written there."""
    return os.pathsep.join(
        each for each in pythonpath.split(os.pathsep) if _absolute(each) != _absolute(entry)
    )


def owners_of(name: str, folder: Path) -> list[str]:
    """Return the distributions that have installed a package into a folder, as their metadata says."""
    records = sorted(folder.glob("*.dist-info/RECORD"))
    return [record.parent.name.partition("-")[0] for record in records if _lists(record.read_bytes(), name)]


def _lists(record: bytes, name: str) -> bool:
    return record.startswith(f"{name}/".encode()) or f"\n{name}/".encode() in record


def _refusal(ours: Path, theirs: Path, owners: Sequence[str]) -> str:
    origin = f" (of {', '.join(owners)})" if owners else ""
    return (
        f"mint: two installed packages are named {NAME!r}: MinT's at {ours}, another one at {theirs}{origin}."
        " Install MinT into a virtual environment of its own, or uninstall the other one."
    )


def _absolute(entry: str) -> str:
    return os.path.realpath(entry)
