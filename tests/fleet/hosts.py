"""Hosts as network namespaces on one switch, whose links can be cut. As root, on Linux.

The switch is a namespace too, so nothing leaves by the machine's own network.
"""

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_NUMBERS = itertools.count()
_CLONE_NEWNET = 0x40000000


class Hosts:
    """Hosts ``10.77.0.11``, ``10.77.0.12``, ... by their names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._prefix = f"mt{os.getpid()}-{next(_NUMBERS)}"
        self.addresses = {name: f"10.77.0.{11 + number}" for number, name in enumerate(names)}

    def up(self) -> None:
        """Make them."""
        switch = self._space("switch")
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for name, address in self.addresses.items():
            space = self._space(name)
            _ip("netns", "add", space)
            _ip(
                "link",
                "add",
                f"to-{name}",
                "netns",
                switch,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                space,
            )
            _ip("-n", switch, "link", "set", f"to-{name}", "master", "br0", "up")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", space, "link", "set", device, "up")

    def down(self) -> None:
        """Remove them; what runs on them keeps its namespace until it ends."""
        for name in (*self.addresses, "switch"):
            subprocess.run(["ip", "netns", "del", self._space(name)], check=False, capture_output=True)

    def cut(self, name: str) -> None:
        """Drop every packet from and to a host, silently."""
        _ip("-n", self._space("switch"), "link", "set", f"to-{name}", "down")

    def heal(self, name: str) -> None:
        """Let packets through again."""
        _ip("-n", self._space("switch"), "link", "set", f"to-{name}", "up")

    def separate(self, name: str, others: Sequence[str]) -> None:
        """Drop every packet between a host and some others, silently."""
        addresses = ", ".join(self.addresses[other] for other in others)
        rules = (
            "table inet cut {\n"
            f"chain from {{\ntype filter hook input priority 0;\nip saddr {{ {addresses} }} drop\n}}\n"
            f"chain to {{\ntype filter hook output priority 0;\nip daddr {{ {addresses} }} drop\n}}\n"
            "}\n"
        )
        subprocess.run(self.on(name, "nft", "-f", "-"), input=rules.encode(), check=True)

    def join(self, name: str) -> None:
        """End a separation."""
        subprocess.run(self.on(name, "nft", "delete", "table", "inet", "cut"), check=True)

    def enter(self, name: str) -> None:
        """Let the calling thread's sockets be this host's, for good."""
        descriptor = os.open(f"/var/run/netns/{self._space(name)}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def on(self, name: str, *command: str) -> list[str]:
        """Return the command that runs one on a host."""
        return ["ip", "netns", "exec", self._space(name), *command]

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name}"


def why_not(*more: tuple[str, str]) -> str:
    """Return why there can be no hosts here; empty if there can. ``more`` are programs and their packages."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program, package in (("ip", "iproute2"), *more):
        if shutil.which(program) is None:
            return f"{package} is not installed"
    name = f"mt{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    if made.returncode != 0:
        return f"no network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return ""


@contextmanager
def hosts_of(*names: str) -> Iterator[Hosts]:
    """Make hosts, and remove them in the end."""
    hosts = Hosts(names)
    try:
        hosts.up()
        yield hosts
    finally:
        hosts.down()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
