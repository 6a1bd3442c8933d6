"""An engine over several machines: addresses, and what all machines must agree on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from mint_common.errors import SettingInvalid


@dataclass(frozen=True, slots=True)
class Address:
    """A host and its TCP port."""

    host: str
    port: int

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the address of HOST:PORT. Raises SettingInvalid."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise SettingInvalid(name="MINT_LOADER_LEADER", problem=f"must be HOST:PORT, not {text!r}")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        """Return HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of an engine: its rank and IP address, the leader's, and what all machines share.

    ``port`` is the leader's port of torch's process group; ``seed`` that of requests without one.
    """

    rank: int
    leader: str
    address: str
    port: int
    seed: int


def difference(*, of_node: Mapping[str, str], of_leader: Mapping[str, str]) -> str:
    """Return what a machine's setup has otherwise than the leader's, in a sentence; empty when equal."""
    names = sorted(of_node.keys() | of_leader.keys())
    return "; ".join(
        f"{name} is {of_node.get(name, 'unknown')}, and {of_leader.get(name, 'unknown')} on the leader"
        for name in names
        if of_node.get(name) != of_leader.get(name)
    )
