"""Setup of a child process between fork and exec: session, private files, user, death with its parent."""

import ctypes
import os
import signal
import struct
from collections.abc import Callable

from mint_common.private_files import make_files_private
from services.standalone.adapters.launch import RunAs

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 4
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522
EXIT_ORPHAN = 125

_LIBC = ctypes.CDLL(None, use_errno=True)


def child_setup(run_as: RunAs | None, *, parent: int | None) -> Callable[[], None]:
    """Return a ``preexec_fn``. With ``parent``, the child gets SIGKILL when that process's thread ends."""

    def setup() -> None:
        os.setsid()
        make_files_private()
        if run_as is not None:
            _drop_root(run_as)
        if parent is not None:
            # After setuid, which clears it.
            _LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(EXIT_ORPHAN)

    return setup


def _drop_root(run_as: RunAs) -> None:
    if run_as.pass_closed_folders:
        _LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        # Otherwise access(2), with which Postgres looks for its programs, ignores capabilities.
        _LIBC.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(run_as.gid)
    os.setuid(run_as.uid)
    if run_as.pass_closed_folders and not any(map(_keep, (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE))):
        os.write(2, b"cannot keep the capability to pass through the closed parent folders\n")


def _keep(capability: int) -> bool:
    """Keep only one capability through exec."""
    bit = 1 << capability
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    sets = struct.pack("=6I", bit, bit, bit, 0, 0, 0)
    if _LIBC.capset(header, sets) != 0:
        return False
    return bool(_LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) == 0)
