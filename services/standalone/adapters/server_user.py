"""The user of Postgres and NATS when root starts a stack: a user id that nothing else uses.

The id is also the group of the state folder, which only its owner and group can enter. It needs no entry in
the user database. The user `nobody` is not suitable, because other programs run under it.
"""

import contextlib
import grp
import os
import pwd
import random
import stat
from pathlib import Path

import psutil

from mint_client.core.refusals import LocalFailureError
from services.standalone.adapters.file_modes import open_to_others
from services.standalone.adapters.launch import RunAs

IDS = (range(65_536, 100_000), range(60_706, 61_184))
"""Ids that neither systemd nor shadow assigns; the second range is for containers with 16-bit ids."""


def server_user(root: Path) -> RunAs | None:
    """Return the user of a state folder's servers, chosen at the first call; None unless we are root."""
    if os.geteuid() != 0:
        return None
    number = root.stat().st_gid
    if not (_in_ranges(number) and _is_unnamed(number)):
        number = _unused_id()
        os.chown(root, -1, number)
    root.chmod(stat.S_IMODE(root.stat().st_mode) | stat.S_IXGRP)
    return RunAs(uid=number, gid=number, pass_closed_folders=not open_to_others(root.absolute().parent))


def hand_over(folder: Path, user: RunAs) -> None:
    """Give a server its folder and the content. Idempotent.

    Only files of root or of the folder's former owner are given: a compromised server may have linked other
    files into its folder.
    """
    owner = folder.stat().st_uid
    for _, folders, files, descriptor in os.fwalk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):  # a running server removes files
                entry = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if entry.st_uid in (0, owner) and (stat.S_ISDIR(entry.st_mode) or entry.st_nlink == 1):
                    os.chown(name, user.uid, user.gid, dir_fd=descriptor, follow_symlinks=False)
    os.chown(folder, user.uid, user.gid)


def can_run(user: RunAs, program: Path) -> bool:
    """Return whether a server's user can run a program at its place."""
    can_pass = user.pass_closed_folders or open_to_others(program.parent)
    return can_pass and bool(program.stat().st_mode & stat.S_IXOTH)


def _unused_id() -> int:
    in_use = {number for each in psutil.process_iter(["uids"]) for number in each.info["uids"] or ()}
    for numbers in IDS:
        for number in random.SystemRandom().sample(numbers, k=len(numbers)):
            if number not in in_use and _is_unnamed(number) and _is_mapped(number):
                return number
    problem = "every possible id has a name or does not exist in this container"
    raise LocalFailureError(what="a user for the embedded servers", problem=problem)


def _in_ranges(number: int) -> bool:
    return any(number in numbers for numbers in IDS)


def _is_unnamed(number: int) -> bool:
    with contextlib.suppress(KeyError):
        pwd.getpwuid(number)
        return False
    with contextlib.suppress(KeyError):
        grp.getgrgid(number)
        return False
    return True


def _is_mapped(number: int) -> bool:
    """Return whether this user namespace maps an id as user and group."""
    return all(_maps(Path(f"/proc/self/{kind}_map"), number) for kind in ("uid", "gid"))


def _maps(file: Path, number: int) -> bool:
    ranges = [line.split() for line in file.read_text().splitlines()]
    return any(int(first) <= number < int(first) + int(count) for first, _, count in ranges)
