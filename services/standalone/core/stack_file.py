"""`mint.yaml`: the bases of a stack, the devices and dtype of each base's trainer and engines, and trackers.

A key of an engine or a trainer is a setting of the loader or the trainer in lower case:
docs/reference/settings.md.
Additional keys are ``devices``, the GPUs that a part sees, and ``count``, the number of such parts.
"""

import difflib
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mint_client.core.tracking import TrackerKind
from mint_common.errors import MintError, SettingInvalid
from services.standalone.core.plan import BasePlan, PartEnv, TrackerPlan
from services.standalone.core.refusals import StackFileInvalidError

Path = tuple[str | int, ...]
"""Place of a value in the file: keys and indices from the top."""

MAX_SHARED = 0.95
"""Maximum total share of a GPU with several parts: CUDA itself uses some memory in each process."""

DECIDED = frozenset({"engine_id", "base_dir", "cache_dir", "http_host", "http_port"})
"""Settings that `mint up` gives every part."""

_SHARES = {"engine": "gpu_memory_utilization", "trainer": "memory_share"}
_WORKERS = {"engine": ("tensor_parallel", "pipeline_parallel"), "trainer": ("ranks",)}
_TRACKERS = "trackers"
_OF_TRAINER, _OF_ENGINE = "trainer", "engines"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """A file's content, with the line of each value."""

    name: str
    content: object
    lines: Mapping[Path, int]

    def refuse(self, path: Path, problem: str) -> StackFileInvalidError:
        """Return the error at a place in the file."""
        known = path
        while known not in self.lines and known:
            known = known[:-1]
        where = ".".join(map(str, path)) or "the file"
        line = self.lines.get(known, 1)
        return StackFileInvalidError(file=self.name, line=line, field=where, problem=problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFile:
    """The content of a stack file. ``places`` are the positions of the parts' variables in it."""

    raw: RawFile
    bases: Mapping[str, BasePlan]
    port: int | None
    trackers: Sequence[TrackerPlan]
    places: Sequence[tuple[str, Path]]

    def located(self, error: SettingInvalid) -> MintError:
        """Return the error of a setting, with its line if it is in the file."""
        problem, named = str(error.fields["problem"]), str(error.name).split(", ")
        found = [path for variable, path in self.places if variable in named]
        if not found:
            return error
        # An error about several settings: the first one that it names.
        return self.raw.refuse(next((path for path in found if str(path[-1]) in problem), found[0]), problem)


def read_stack_file(raw: RawFile, *, settings: Mapping[str, Sequence[str]]) -> StackFile:
    """Return what a file asks for.

    ``settings`` are the names that the loader and the trainer read. The services check the values later.
    Raises StackFileInvalidError for the first error.
    """
    top = _mapping(raw, (), raw.content)
    _known(raw, (), top, ("bases", "port", _TRACKERS))
    bases = _mapping(raw, ("bases",), top.get("bases"))
    if not bases:
        raise raw.refuse(("bases",), "names no base")
    reader = _Reader(raw, settings)
    planned = {name: reader.base(("bases", name), value) for name, value in bases.items()}
    _check_shares(raw, reader.shares)
    port = top.get("port")
    if port is not None and not (isinstance(port, int) and not isinstance(port, bool) and 0 < port < 1 << 16):
        raise raw.refuse(("port",), f"{port!r} is not a port")
    return StackFile(raw=raw, bases=planned, port=port, trackers=_trackers(raw, top), places=reader.places)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """The share of a part on each of its GPUs, None if not given."""

    path: Path
    kind: str
    devices: tuple[int, ...]
    share: float | None


class _Reader:
    """Reads bases one after another, and records the parts on each GPU."""

    def __init__(self, raw: RawFile, settings: Mapping[str, Sequence[str]]) -> None:
        self._raw = raw
        self._settings = settings
        self.shares: list[_Share] = []
        self.places: list[tuple[str, Path]] = []

    def base(self, path: Path, value: object) -> BasePlan:
        entry = _mapping(self._raw, path, {} if value is None else value)
        _known(self._raw, path, entry, ("dtype", _OF_ENGINE, _OF_TRAINER))
        shared = {key: entry[key] for key in ("dtype",) if key in entry}
        engines: list[PartEnv] = []
        listed = entry.get(_OF_ENGINE, [{}])
        if not isinstance(listed, list) or not listed:
            raise self._raw.refuse((*path, _OF_ENGINE), "must be a list of at least one engine")
        for index, one in enumerate(listed):
            engines += self._alike("engine", (*path, _OF_ENGINE, index), one, shared)
        return BasePlan(engines=tuple(engines), trainers=tuple(self._trainers(path, entry, shared)))

    def _trainers(
        self, path: Path, entry: Mapping[str, object], shared: Mapping[str, object]
    ) -> Iterator[PartEnv]:
        """Yield the trainers of one entry, or of a list of them."""
        given, path = entry.get(_OF_TRAINER), (*path, _OF_TRAINER)
        if given == []:
            raise self._raw.refuse(path, "must be a trainer, or a list of at least one")
        if not isinstance(given, list):
            yield from self._alike("trainer", path, given, shared)
            return
        for index, one in enumerate(given):
            yield from self._alike("trainer", (*path, index), one, shared)

    def _alike(self, kind: str, path: Path, value: object, shared: Mapping[str, object]) -> list[PartEnv]:
        entry = dict(_mapping(self._raw, path, {} if value is None else value))
        count = entry.pop("count", 1)
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 64:
            raise self._raw.refuse((*path, "count"), f"{count!r} is not a number from 1 to 64")
        return [self._part(kind, path, entry, shared) for _ in range(count)]

    def _part(self, kind: str, path: Path, value: object, shared: Mapping[str, object]) -> PartEnv:
        entry = dict(_mapping(self._raw, path, {} if value is None else value))
        devices = self._devices(path, entry)
        service = "loader" if kind == "engine" else "trainer"
        entry = {**shared, **entry}
        decided = [key for key in entry if key in DECIDED]
        if decided:
            raise self._raw.refuse((*path, decided[0]), "`mint up` sets this one itself")
        names = [name for name in self._settings[service] if name not in DECIDED]
        _known(self._raw, path, entry, ["devices", "count", *names])
        env = {}
        for key, item in entry.items():
            own, variable = (*path, key), f"MINT_{service.upper()}_{key.upper()}"
            env[variable] = self._text(own, item)
            self.places.append((variable, own if own in self._raw.lines else (*path[:2], key)))
        if devices is not None:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
            self.places.append(("CUDA_VISIBLE_DEVICES", (*path, "devices")))
            self._check_workers(kind, path, entry, len(devices))
            share = entry.get(_SHARES[kind])
            known = float(share) if isinstance(share, int | float) else None
            self.shares.append(_Share(path=path, kind=kind, devices=devices, share=known))
        return env

    def _devices(self, path: Path, entry: dict[str, object]) -> tuple[int, ...] | None:
        devices = entry.pop("devices", None)
        if devices is None:
            return None
        where = (*path, "devices")
        if not isinstance(devices, list):
            raise self._raw.refuse(where, "must be a list of GPU numbers; an empty list is the CPU")
        numbers = tuple(
            one for one in devices if isinstance(one, int) and not isinstance(one, bool) and one >= 0
        )
        if len(set(numbers)) != len(devices):
            raise self._raw.refuse(where, f"{devices!r} has an entry that is not a GPU number, or one twice")
        return numbers

    def _check_workers(self, kind: str, path: Path, entry: Mapping[str, object], devices: int) -> None:
        """Raise unless a part with several GPUs says how it is split over them."""
        keys = _WORKERS[kind]
        workers = math.prod(one for key in keys if isinstance(one := entry.get(key), int))
        if devices and devices != workers:
            problem = f"are {devices}, but {' times '.join(keys)} is {workers}"
            raise self._raw.refuse((*path, "devices"), problem)

    def _text(self, path: Path, value: object) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str | int | float):
            return str(value)
        if isinstance(value, dict):
            return json.dumps(value)
        raise self._raw.refuse(path, f"{value!r} is neither text nor a number")


def _trackers(raw: RawFile, top: Mapping[str, object]) -> list[TrackerPlan]:
    listed = top.get(_TRACKERS, [])
    if not isinstance(listed, list):
        raise raw.refuse((_TRACKERS,), "must be a list of trackers")
    return [_tracker(raw, (_TRACKERS, index), one) for index, one in enumerate(listed)]


def _tracker(raw: RawFile, path: Path, value: object) -> TrackerPlan:
    entry = _mapping(raw, path, value)
    _known(raw, path, entry, ("to", "at", "project"))
    for key, text in entry.items():
        if not isinstance(text, str) or not text:
            raise raw.refuse((*path, key), f"{text!r} is not a text")
    if entry.get("to") not in list(TrackerKind):
        raise raw.refuse((*path, "to"), f"must be one of {', '.join(TrackerKind)}")
    return TrackerPlan(
        to=TrackerKind(str(entry["to"])),
        at=str(entry.get("at", "")),
        project=str(entry.get("project", "mint")),
    )


def _check_shares(raw: RawFile, shares: Sequence[_Share]) -> None:
    """Raise if parts that share a GPU do not give their shares, or exceed it together."""
    on: dict[int, list[_Share]] = defaultdict(list)
    for one in shares:
        for device in one.devices:
            on[device].append(one)
    for device, parts in sorted(on.items()):
        if len(parts) < 2:
            continue
        for one in parts:
            if one.share is None:
                problem = (
                    f"GPU {device} is shared by {len(parts)} parts: give this part's share of it, 0 to 1"
                )
                raise raw.refuse((*one.path, _SHARES[one.kind]), problem)
        total = sum(one.share or 0.0 for one in parts)
        if total > MAX_SHARED:
            taken = " + ".join(f"{one.share:g}" for one in parts)
            problem = f"GPU {device} has shares of {taken} = {total:g}; the maximum is {MAX_SHARED}"
            raise raw.refuse((*parts[-1].path, _SHARES[parts[-1].kind]), problem)


def _mapping(raw: RawFile, path: Path, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"{value!r}"
        raise raw.refuse(path, f"must have keys and values, not {found}")
    for key in value:
        if not isinstance(key, str):
            raise raw.refuse((*path, key), f"the key {key!r} is not text")
    return value


def _known(raw: RawFile, path: Path, entry: Mapping[str, object], names: Sequence[str]) -> None:
    key = next((key for key in entry if key not in names), None)
    if key is not None:
        near = difflib.get_close_matches(key, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(names[:8])}"
        raise raw.refuse((*path, key), f"is not known; {hint}")
