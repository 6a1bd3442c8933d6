"""The bases of a state folder: found, listed, and made when they are one of those that MinT knows."""

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import services
from mint_client.core.refusals import LocalFailureError
from mint_client.core.tables import shown_bytes
from mint_common.adapters_format import BASE_FILE, BaseFacts, read_base_facts
from mint_common.adapters_format.base_facts import ProbeResult
from mint_common.errors import InvalidField, NotFound
from mint_common.names import BASE_NAME_PATTERN
from services.standalone.adapters.base_import import (
    SMOLLM2_CONFIG,
    SMOLLM2_GGUF,
    Report,
    Wish,
    import_smollm2,
    origin_of,
)
from services.standalone.adapters.model_sizes import read_shape, shape_of_folder
from services.standalone.core.base_sources import read_hub_source, usual_name
from services.standalone.core.model_shape import ModelShape
from services.standalone.core.plan import BaseAt
from services.standalone.core.refusals import BaseMissingError
from services.standalone.core.sizing import told_facts

TINY = "tiny"
SMOLLM2 = "smollm2"
KNOWN_BASES = (TINY, SMOLLM2)
DEFAULT_MAX_RANK = 16
DEMO_FOLDER = Path("out/demo")
"""The default output folder of `mint demo`."""


def list_bases(folder: Path) -> list[tuple[Path, BaseFacts]]:
    """Return every complete base below a folder, by name."""
    files = sorted(folder.glob(f"*/{BASE_FILE}")) if folder.exists() else []
    return [(file.parent, read_base_facts(file.parent)) for file in files if file.parent.name[0] != "."]


def find_base(folder: Path, name: str) -> BaseAt:
    """Return one base of a folder. Raises BaseMissingError naming those that it has."""
    place = folder / name
    if not re.fullmatch(BASE_NAME_PATTERN, name) or not (place / BASE_FILE).is_file():
        known = ", ".join(sorted(facts.name for _, facts in list_bases(folder)))
        raise BaseMissingError(name=name, folder=str(folder), known=known or "none")
    facts = read_base_facts(place)
    return base_at(str(place.resolve()), name, facts)


def base_at(folder: str, name: str, facts: BaseFacts) -> BaseAt:
    """Return a base of a folder, with the parts that its facts allow."""
    is_trained = not facts.quantization and not facts.served_only
    return BaseAt(name=name, folder=folder, trainable=is_trained, served=not facts.trained_only)


def ensure_base(folder: Path, name: str, *, report: Report, probes: bool = False) -> BaseAt:
    """Return a base of the folder, making it first when it is one of KNOWN_BASES and missing.

    A path of a folder, or a hub's model, is added under its usual name unless it is there already; with
    ``probes`` it is probed before. A conversion runs in a process of its own: it takes a gigabyte that a
    supervisor should not keep.
    """
    if name in KNOWN_BASES and not (folder / name / BASE_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        converted = _converted(name)
        if name == TINY or converted is not None:
            source = name if converted is None else str(converted)
            report(f"adding the base {name} from {source}")
            add_base(folder, source, name=name, max_rank=DEFAULT_MAX_RANK, report=report)
        else:
            report(f"adding the base {name} (once)")
            _add_elsewhere(folder, name)
    elif "/" in name:
        added = usual_name(name)
        there = (folder / added / BASE_FILE).is_file()
        max_rank = read_base_facts(folder / added).max_rank if there else DEFAULT_MAX_RANK
        add_base(folder, name, name=added, max_rank=max_rank, report=report, probes=probes)
        return find_base(folder, added)
    return find_base(folder, name)


def _converted(name: str) -> Path | None:
    """Return where `mint demo` has left the same conversion of a known base, if it did so here."""
    place = DEMO_FOLDER / "bases" / name
    is_same = name == SMOLLM2 and Path(origin_of(place)).name == SMOLLM2_GGUF
    return place if is_same and (place / BASE_FILE).is_file() else None


def _add_elsewhere(folder: Path, name: str) -> None:
    # -P: a file in the current folder must not shadow a module.
    module = [sys.executable, "-P", "-m", "services.standalone"]
    command = [*module, "base", "add", name, "--dir", str(folder.parent)]
    if subprocess.run(command, check=False).returncode != 0:
        raise LocalFailureError(what=f"the import of {name}", problem="it failed as told above")


def add_base(
    folder: Path,
    source: str,
    *,
    name: str,
    max_rank: int,
    report: Report,
    dequantize: bool = False,
    targets: Sequence[str] = (),
    serve_only: bool = False,
    train_only: bool = False,
    probes: bool = False,
) -> BaseFacts:
    """Make a base from a known name, a folder of Hugging Face files, or a model of a hub.

    With ``dequantize`` a quantized one is written in bfloat16. With ``probes`` one of no known name is
    probed before. Raises InvalidField, AlreadyExists, BaseNameTakenError, NoRoomError, ProbeFailedError,
    HubRefusedError or HubUnreachableError.
    """
    if not re.fullmatch(BASE_NAME_PATTERN, name):
        raise InvalidField(field="--name", problem=f"{name!r} does not match {BASE_NAME_PATTERN}")
    if serve_only and train_only:
        raise InvalidField(field="--train-only", problem="or --serve-only: with both nothing is left")
    _quiet_libraries()
    # Their libraries take seconds to load.
    from services.standalone.adapters.base_adding import add_folder, add_from_hub

    place = tiny_folder() if source == TINY else Path(source)
    wish = Wish(
        origin=str(place.absolute()),
        target=folder / name,
        name=name,
        max_rank=max_rank,
        dequantize=dequantize,
        targets=tuple(targets),
        serve_only=serve_only,
        train_only=train_only,
        probes=probes and source not in KNOWN_BASES,
        report=report,
    )
    if source == SMOLLM2:
        return import_smollm2(wish)
    if place.is_dir():
        return add_folder(place, wish)
    hub = read_hub_source(source)
    if hub is None:
        known = ", ".join(KNOWN_BASES)
        problem = (
            f"is neither a folder, nor one of {known}, nor a model of a hub (ORG/NAME or ORG/NAME@REVISION)"
        )
        raise InvalidField(field=source, problem=problem)
    return add_from_hub(hub, wish)


def describe_files(place: Path, facts: BaseFacts) -> dict[str, object]:
    """Return what is told of a base beside its facts: its source, its files, what it needs of memory."""
    shape = shape_of_folder(place)
    return {
        "source": origin_of(place),
        "files": shown_bytes(sum(file.stat().st_size for file in place.iterdir())),
        **told_facts(shape, quantization=facts.quantization, max_rank=facts.max_rank),
        **_probe_shown(facts.probe),
    }


def _probe_shown(found: ProbeResult | None) -> dict[str, str]:
    if found is None:
        return {"probe": "not probed"}
    told = {f"probe, {line.part}": line.told() for line in found.lines}
    return {"probe": f"{found.small}, engine in {found.dtype}, {found.seconds:.0f} s", **told}


def shape_of(folder: Path, model: str) -> ModelShape:
    """Return the shape of a config.json, or a folder with one, of a base, or of a hub's model."""
    _quiet_libraries()
    from services.standalone.adapters.base_adding import shape_of_hub

    place = tiny_folder() if model == TINY else Path(model)
    if model == SMOLLM2 and not (folder / model / BASE_FILE).is_file():
        return read_shape(SMOLLM2_CONFIG, place=model)
    if place.exists():
        return shape_of_folder(place)
    hub = read_hub_source(model)
    if hub is None:
        return shape_of_folder(Path(find_base(folder, model).folder))
    return shape_of_hub(hub)


def remove_base(folder: Path, name: str) -> None:
    """Remove a base's folder; files that it was linked from stay. Raises BaseMissingError."""
    place = Path(find_base(folder, name).folder)
    gone = place.with_name(f".{place.name}.{os.getpid()}")
    place.rename(gone)
    shutil.rmtree(gone)


def _quiet_libraries() -> None:
    """Keep progress bars and warnings of other libraries out of our lines; both are read at their import."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def tiny_folder() -> Path:
    """Return where the base `tiny` ships: in the installed package, or beside it in a checkout."""
    package = Path(services.__file__ or "").parent
    for place in (package / "standalone" / "bases" / TINY, package.parent / "bases" / TINY):
        if (place / BASE_FILE).is_file():
            return place
    raise NotFound(kind="base shipped with MinT", name=TINY)
