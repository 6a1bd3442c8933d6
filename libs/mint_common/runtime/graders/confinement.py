"""Drop a process's rights permanently before it runs untrusted source. Linux only.

It retains its memory, the clock and its open descriptors: it can open or stat no file, create no
socket, start no process or thread, and signal no process. A seccomp list of permitted calls enforces this;
Landlock without a rule and resource limits are a second barrier.
"""

import ctypes
import os
import platform
import resource
import struct

# Calls by name: number on x86_64, on aarch64. What an interpreter needs that has nothing more to import.
_ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Place in `_ALLOWED`, and how the kernel calls the machine."""

_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SIGKILL, _EPERM = 9, 1
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000 | _EPERM, 0x80000000
_INSTRUCTION = struct.Struct("<HBBI")


class ConfinementUnavailable(Exception):
    """This system lacks a part of it; the text is a sentence that says which."""


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def confine(*, memory_bytes: int, cpu_seconds: int) -> None:
    """Confine this process, which has one thread, permanently. Raises ConfinementUnavailable.

    ``memory_bytes`` limits its memory beyond the current use. It is killed when its parent ends.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _limit(address_space_bytes() + memory_bytes, cpu_seconds)
    _control(libc, _PR_SET_PDEATHSIG, _SIGKILL)
    _control(libc, _PR_SET_DUMPABLE, 0)
    _control(libc, _PR_SET_NO_NEW_PRIVS, 1)
    _enter_landlock(libc)
    _enter_seccomp(libc)


def _limit(max_address_space_bytes: int, cpu_seconds: int) -> None:
    for what, most in (
        (resource.RLIMIT_AS, max_address_space_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def address_space_bytes() -> int:
    """Return how much of its address space this process takes, as RLIMIT_AS counts it."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  # pathlib is one more import
        return int(file.read().split()[0]) * resource.getpagesize()


def _control(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, ctypes.c_ulong(value), *(ctypes.c_ulong(0),) * 3):
        raise ConfinementUnavailable(f"This kernel refuses prctl {option}: {_why()}.")


def _enter_landlock(libc: ctypes.CDLL) -> None:
    version = _call(libc, _LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        raise ConfinementUnavailable(f"This kernel has no Landlock, or it is not enabled: {_why()}.")
    files = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    handled = struct.pack("<QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    rules = _call(libc, _LANDLOCK_CREATE, handled, 24 if version >= 6 else 16 if version >= 4 else 8, 0)
    if rules < 0 or _call(libc, _LANDLOCK_RESTRICT, rules, 0, 0):
        raise ConfinementUnavailable(f"Landlock refuses to confine this process: {_why()}.")
    os.close(rules)


def _enter_seccomp(libc: ctypes.CDLL) -> None:
    machine = platform.machine()
    if machine not in _MACHINES:
        raise ConfinementUnavailable(f"The list of allowed system calls is not written for {machine}.")
    place, architecture = _MACHINES[machine]
    instructions = _program([numbers[place] for numbers in _ALLOWED.values()], architecture)
    program = _Filter(len(instructions) // _INSTRUCTION.size, instructions)
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program), *(ctypes.c_ulong(0),) * 2):
        raise ConfinementUnavailable(f"This kernel has no seccomp filters: {_why()}.")


def _program(allowed: list[int], architecture: int) -> bytes:
    """Return a filter that lets these calls pass, fails others, and kills callers of another machine."""
    steps = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number of the call
        *((_JUMP_IF_EQUAL, len(allowed) - at, 0, number) for at, number in enumerate(allowed)),
        (_RETURN, 0, 0, _FAIL),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)


def _call(libc: ctypes.CDLL, number: int, *arguments: int | bytes | None) -> int:
    given = [ctypes.c_long(each) if isinstance(each, int) else ctypes.c_char_p(each) for each in arguments]
    return int(libc.syscall(ctypes.c_long(number), *given))


def _why() -> str:
    return os.strerror(ctypes.get_errno())
