"""Start a worker of an environment: give up every right that its code needs not, then run its own Python.

A confined worker has a file system of its own (its installation, the system's libraries, the socket of the
model, a temporary folder in memory), and its own processes, users and network, where nothing but loopback
is. Linux only. Run as a file by MinT's Python; what it starts has none of MinT's modules.
"""

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _READ_ONLY_NOSUID = 442, -100, 0x8000, 3
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/etc/alternatives", "/etc/ca-certificates")
_SYSTEM_FILES = (
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/passwd", "/etc/group"),
    *("/etc/nsswitch.conf", "/etc/hosts", "/etc/resolv.conf", "/etc/ssl", "/etc/pki", "/etc/localtime"),
    *("/etc/mime.types", "/etc/os-release"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_TEMPORARY_BYTES, _SHARED_MEMORY_BYTES = 256 << 20, 64 << 20
_FILE_BYTES = 256 << 20
_PROCESSES, _DESCRIPTORS = 1024, 4096
_WHOLE_MAP, _CONTAINER_MAP = 1 << 31, 1 << 16
"""Ids of a user namespace: of the machine, and of a container that has its own."""

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Start the worker that the first argument describes, and end as it ends."""
    plan = json.loads(sys.argv[1])
    os.umask(0o022)
    _die_with_parent(plan["parent"])
    try:
        pid = _start(plan)
    except (OSError, KeyError) as error:
        told = json.dumps({"problem": f"{type(error).__name__}: {error}"}).encode()
        socket.socket(fileno=plan["descriptor"]).sendall(struct.pack("<I", len(told)) + told)
        os._exit(1)
    os.close(plan["descriptor"])
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(status if status >= 0 else 128 - status)


def _start(plan: dict[str, Any]) -> int:  # JSON
    """Start the confined child; return its process id. Raises OSError with the step that is refused."""
    uid = _leave_namespaces(plan) if plan["confined"] else None
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        try:
            _become_worker(plan, uid)
        except BaseException as error:  # noqa: BLE001  # told to the parent
            os.write(writing, f"{type(error).__name__}: {error}".encode()[:2000])
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        problem = told.read().decode(errors="replace")  # ends when the child's own Python begins
    if problem:
        os.waitpid(pid, 0)
        raise OSError(problem)
    return pid


def _leave_namespaces(plan: dict[str, Any]) -> int | None:
    """Enter new namespaces; return the user that the worker becomes, None: it stays this one."""
    flags = _NEWNS | _NEWPID | _NEWIPC | (0 if plan["network"] else _NEWNET)
    uid = _own_uid() if os.geteuid() == 0 else None
    if uid is not None:
        with suppress(OSError):
            _check(_libc.unshare(flags), "unshare")
            return uid
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(flags | _NEWUSER), "unshare of a user namespace")
    for file, text in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
        Path("/proc/self", file).write_text(text)
    return None


def _own_uid() -> int | None:
    """Return a user id that no one else has, in a range of its own by this process's id; None without one."""
    size = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
    if size >= _WHOLE_MAP:
        return (1 << 30) + os.getpid()
    return 20_000 + os.getpid() % 40_000 if size >= _CONTAINER_MAP else None


def _become_worker(plan: dict[str, Any], uid: int | None) -> None:
    """Give everything up, then run the environment's Python. Never returns."""
    if plan["confined"]:
        if not plan["network"]:
            _raise_loopback()
        _change_root(plan)
    else:
        os.chdir(plan["folder"])
    for what, most in (
        (resource.RLIMIT_DATA, plan["memory_bytes"]),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        *([(resource.RLIMIT_NPROC, _PROCESSES)] if plan["confined"] else []),
    ):
        hard = resource.getrlimit(what)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bound, bound))
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))), "no_new_privs")
    _check(_libc.prctl(_PR_SET_PDEATHSIG, *map(ctypes.c_ulong, (signal.SIGKILL, 0, 0, 0))), "pdeathsig")
    python = plan["python"]
    os.set_inheritable(plan["descriptor"], True)
    given = [python, "-I", plan["shim"], str(plan["descriptor"])]
    os.execve(python, given, _environment(plan))  # noqa: S606  # this process becomes it


def _environment(plan: dict[str, Any]) -> dict[str, str]:
    home = "/tmp" if plan["confined"] else plan["folder"]  # noqa: S108  # its own
    path = f"{Path(plan['python']).parent}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}


def _change_root(plan: dict[str, Any]) -> None:
    root = plan["folder"]
    _mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, kind="tmpfs", flags=_MS_NOSUID | _MS_NODEV, data="size=1m,mode=755")
    for path in _DEVICES:
        _bind(path, root + path)
    for path, size, mode in (("/tmp", _TEMPORARY_BYTES, "1777"), ("/dev/shm", _SHARED_MEMORY_BYTES, "1777")):  # noqa: S108  # its own
        Path(root + path).mkdir(parents=True, exist_ok=True)
        flags = _MS_NOSUID | _MS_NODEV
        _mount("tmpfs", root + path, kind="tmpfs", flags=flags, data=f"size={size},mode={mode}")
    for path in (*_SYSTEM, *_SYSTEM_FILES, *plan["read"]):
        _show(root, path)
    Path(root, "proc").mkdir()
    with suppress(OSError):  # of a container that hides parts of it
        _mount("proc", f"{root}/proc", kind="proc", flags=_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    os.chdir(root)
    here = ctypes.c_char_p(b".")
    _check(_libc.syscall(ctypes.c_long(_PIVOT_ROOT[os.uname().machine]), here, here), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/tmp")  # noqa: S108  # its own


def _show(root: str, path: str) -> None:
    """Show a file or folder at its place below a root, read-only; nothing if there is none."""
    if not Path(path).exists() or Path(root + path).exists():
        return
    if Path(path).is_symlink() and Path(path).parent == Path("/"):
        Path(root + path).symlink_to(Path(path).readlink())
        return
    _bind(path, root + path)
    attributes = struct.pack("<QQQQ", _READ_ONLY_NOSUID, 0, 0, 0)
    numbers = [ctypes.c_long(each) for each in (_MOUNT_SETATTR, _AT_FDCWD)]
    place = ctypes.c_char_p((root + path).encode())
    changed = _libc.syscall(
        *numbers, place, ctypes.c_long(_AT_RECURSIVE), attributes, ctypes.c_long(len(attributes))
    )
    _check(changed, f"a read-only mount of {path}")


def _bind(path: str, place: str) -> None:
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    if Path(path).is_dir():
        Path(place).mkdir(exist_ok=True)
    else:
        Path(place).touch()
    _mount(path, place, flags=_MS_BIND | _MS_REC)


def _mount(source: str, place: str, *, kind: str = "none", flags: int = 0, data: str = "") -> None:
    given = [each.encode() for each in (source, place, kind)]
    _check(_libc.mount(*given, ctypes.c_ulong(flags), data.encode()), f"mount of {source} at {place}")


def _raise_loopback() -> None:
    """Bring up the loopback device of a new network, where clients find the model."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _die_with_parent(parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, *map(ctypes.c_ulong, (signal.SIGKILL, 0, 0, 0)))
    if os.getppid() != parent:
        os._exit(0)


def _check(result: int, step: str) -> None:
    if result:
        raise OSError(f"{step}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
