"""Tiers of policies: on the device, in the host's memory, or stored only.

Invariants: a policy is in one tier; a protected one is never dropped, and dropping any other loses nothing,
because its log and its snapshot are complete. Both tiers are bounded; the least recently used leave first.
The thread that steps policies moves them. No random generator moves with them: training draws nothing once a
LoRA is initialised.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from mint_common.ids import PolicyId
from services.trainer import metrics
from services.trainer.adapters.states.training_state import (
    ParkedState,
    TrainingState,
    park_state,
    resume_state,
)
from services.trainer.core.policy_work import Swaps, Tier


@dataclass(slots=True)
class ResidentPolicy:
    """A policy in memory. While it ``stays``, its state is stored nowhere else."""

    state: TrainingState | ParkedState
    stays: bool = False

    @property
    def tier(self) -> Tier:
        """Return where it is."""
        return "device" if isinstance(self.state, TrainingState) else "host"


class PolicyTiers:
    """The policies of one process that are in memory and not at work."""

    def __init__(
        self, *, device_policies: int, host_policies: int, device: torch.device | None = None
    ) -> None:
        self._device = device or torch.device("cpu")
        self._device_policies = device_policies
        self._host_policies = host_policies
        self._resident: OrderedDict[PolicyId, ResidentPolicy] = OrderedDict()
        self._swaps = Swaps(count=0, seconds=0.0, bytes=0)

    def tiers(self) -> dict[PolicyId, Tier]:
        """Return where each policy is."""
        return {policy_id: resident.tier for policy_id, resident in self._resident.items()}

    def swaps(self) -> Swaps:
        """Return what moving has cost since the start."""
        return self._swaps

    def on_device(self) -> list[PolicyId]:
        """Return the policies on the device, the least recently used first."""
        return [policy_id for policy_id, one in self._resident.items() if one.tier == "device"]

    def get(self, policy_id: PolicyId) -> ResidentPolicy | None:
        """Return a policy that is here."""
        return self._resident.get(policy_id)

    def set_stays(self, policy_id: PolicyId, *, stays: bool) -> None:
        """Protect a policy in memory from being dropped, or end that."""
        if policy_id in self._resident:
            self._resident[policy_id].stays = stays

    def take(self, policy_id: PolicyId) -> ResidentPolicy:
        """Take a policy out to work on it."""
        return self._resident.pop(policy_id)

    def forget(self, policy_id: PolicyId) -> None:
        """Drop a policy from memory, if it is there."""
        self._resident.pop(policy_id, None)

    def put(self, policy_id: PolicyId, resident: ResidentPolicy) -> list[ResidentPolicy]:
        """Put a policy in as the most recently used one; return those that have to be swapped out now."""
        self._resident[policy_id] = resident
        self._resident.move_to_end(policy_id)
        surplus = self.on_device()[: -self._device_policies]
        return [self._resident[name] for name in surplus]

    def find(self, policy_ids: Iterable[PolicyId]) -> list[ResidentPolicy]:
        """Return those of some policies that are here."""
        return [self._resident[name] for name in policy_ids if name in self._resident]

    def trim(self) -> None:
        """Drop the least recently used policies that the host has no room for."""
        in_host = [name for name, one in self._resident.items() if one.tier == "host" and not one.stays]
        for name in in_host[: max(0, len(in_host) - self._host_policies)]:
            del self._resident[name]

    def swap_out(self, resident: ResidentPolicy) -> None:
        """Move a policy from the device to the host, unless it is there."""
        if isinstance(resident.state, TrainingState):
            started = time.perf_counter()
            resident.state = park_state(resident.state)
            self._note("out", time.perf_counter() - started, resident.state.size_bytes)

    def swap_in(self, resident: ResidentPolicy) -> TrainingState:
        """Move a policy to the device, unless it is there."""
        if isinstance(resident.state, ParkedState):
            started, size_bytes = time.perf_counter(), resident.state.size_bytes
            resident.state = resume_state(resident.state, self._device)
            self._note("in", time.perf_counter() - started, size_bytes)
        elif resident.state.lora.leaf.device != self._device:
            resident.state = resume_state(park_state(resident.state), self._device)
        return resident.state

    def _note(self, direction: str, seconds: float, size_bytes: int) -> None:
        metrics.SWAPS.labels(direction).inc()
        metrics.SWAP_SECONDS.labels(direction).inc(seconds)
        metrics.SWAP_BYTES.labels(direction).inc(size_bytes)
        so_far = self._swaps
        self._swaps = Swaps(
            count=so_far.count + 1, seconds=so_far.seconds + seconds, bytes=so_far.bytes + size_bytes
        )
