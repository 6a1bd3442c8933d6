"""The saved state of a state folder, and the description of its running stack."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from mint_client.core.state import PartNow, RunNow
from services.standalone.core.lifecycle import PartStatus

DEFAULT_GATEWAY_PORT = 8321


@dataclass(frozen=True, slots=True, kw_only=True)
class StackState:
    """``state.json``: the ports that were chosen at the first start, and the bases of the latest one."""

    ports: dict[str, int] = field(default_factory=dict)
    bases: tuple[str, ...] = ()


def encode_state(state: StackState | RunNow) -> bytes:
    """Return a file's JSON."""
    return msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n"


def assign_ports(
    names: Sequence[str],
    remembered: Mapping[str, int],
    *,
    is_free: Callable[[int], bool],
    pick: Callable[[], int],
) -> dict[str, int]:
    """Give each name a port: the remembered one while it is free, else a fresh one; no two the same."""
    ports: dict[str, int] = {}
    for name in names:
        port = remembered.get(name, 0)
        while not port or port in ports.values() or not is_free(port):
            port = pick()
        ports[name] = port
    return ports


def snapshot(
    statuses: Mapping[str, PartStatus], ports: Mapping[str, int], *, pid: int, gateway_url: str
) -> RunNow:
    """Return the description that `mint status` reads."""
    parts = {
        name: PartNow(
            state=status.state.value, pid=status.pid, port=ports.get(name), restarts=status.restarts
        )
        for name, status in statuses.items()
    }
    return RunNow(pid=pid, gateway_url=gateway_url, parts=parts)
