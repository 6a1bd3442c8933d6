"""The bases of a state folder: found, listed, and made when they are one of those that MinT knows."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import services
from mint_common.adapters_format import BASE_FILE, BaseFacts, read_base_facts
from mint_common.errors import InvalidField, NotFound, Unavailable
from services.standalone.core.plan import BaseAt
from services.standalone.core.refusals import BaseMissingError

TINY = "tiny"
SMOLLM2 = "smollm2"
KNOWN_BASES = (TINY, SMOLLM2)
DEFAULT_MAX_RANK = 16

Report = Callable[[str], None]


def list_bases(folder: Path) -> list[tuple[Path, BaseFacts]]:
    """Return every complete base below a folder, by name."""
    files = sorted(folder.glob(f"*/{BASE_FILE}")) if folder.exists() else []
    return [(file.parent, read_base_facts(file.parent)) for file in files if file.parent.name[0] != "."]


def find_base(folder: Path, name: str) -> BaseAt:
    """Return one base of a folder. Raises BaseMissingError naming those that it has."""
    place = folder / name
    if not (place / BASE_FILE).is_file():
        known = ", ".join(sorted(facts.name for _, facts in list_bases(folder)))
        raise BaseMissingError(name=name, folder=str(folder), known=known or "none")
    return BaseAt(name=name, folder=str(place.resolve()))


def ensure_base(folder: Path, name: str, *, report: Report) -> BaseAt:
    """Return a base, making it first when it is one of KNOWN_BASES and missing.

    A conversion runs in a process of its own: it takes a gigabyte that a supervisor should not keep.
    """
    if name in KNOWN_BASES and not (folder / name / BASE_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if name == TINY:
            add_base(folder, name, name=name, max_rank=DEFAULT_MAX_RANK, report=report)
        else:
            report(f"adding the base {name} (once)")
            _add_elsewhere(folder, name)
    return find_base(folder, name)


def _add_elsewhere(folder: Path, name: str) -> None:
    # -P: nothing in the folder of whoever called may shadow a module.
    module = [sys.executable, "-P", "-m", "services.standalone"]
    command = [*module, "base", "add", name, "--dir", str(folder.parent)]
    if subprocess.run(command, check=False).returncode != 0:
        raise Unavailable(what=f"the import of {name}", problem="it failed as told above")


def add_base(folder: Path, source: str, *, name: str, max_rank: int, report: Report) -> BaseFacts:
    """Make a base from a known name or from a folder of Hugging Face files."""
    _quiet_libraries()
    # The importer belongs to the trainer, and its libraries take seconds to load.
    from services.trainer.adapters.model.base_import import import_folder, import_smollm2

    target = folder / name
    if source == SMOLLM2:
        return import_smollm2(target, name=name, max_rank=max_rank, report=report)
    place = tiny_folder() if source == TINY else Path(source)
    if not place.is_dir():
        problem = f"is neither a folder nor one of {', '.join(KNOWN_BASES)}"
        raise InvalidField(field=source, problem=problem)
    return import_folder(place, target, name=name, max_rank=max_rank, report=report)


def _quiet_libraries() -> None:
    """Keep progress bars and warnings of other libraries out of our lines; both are read at their import."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def tiny_folder() -> Path:
    """Return where the base `tiny` ships: in the installed package, or beside it in a checkout."""
    package = Path(services.__file__ or "").parent
    for place in (package / "standalone" / "bases" / TINY, package.parent / "bases" / TINY):
        if (place / BASE_FILE).is_file():
            return place
    raise NotFound(kind="base shipped with MinT", name=TINY)
