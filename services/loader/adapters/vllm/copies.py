"""Copies from host memory into slots, on the stream of the engine's steps.

On CUDA copies are asynchronous: one runs after the current step and before the next, and
nothing waits. It reads host memory meanwhile, so that memory is released only after its event.
The device reads registered memory itself; other memory is copied by CUDA first, within the call. A call for
registered memory returns before its copy has begun, so the length of a stall is computed from bytes and the
bandwidth that is measured at registration.

Not run on CUDA: tests/unit/loader/test_copies.py shows the order of calls and the time of slices with a
simulated stream.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

_log = logging.getLogger(__name__)

Tensor = Any  # here and below: this module is imported before torch is
_PORTABLE = 1  # cudaHostRegisterPortable: registered for every context
_SAMPLE_BYTES = 64 << 20
"""Size of the copy whose time gives the bandwidth: 1 to 5 ms over PCIe."""


class StreamEvent(Protocol):
    """The interface of `torch.cuda.Event`."""

    def record(self) -> None:
        """Mark this place on the current stream."""
        ...

    def query(self) -> bool:
        """Return whether the stream has come by."""
        ...

    def synchronize(self) -> None:
        """Wait until it has."""
        ...


class Copies:
    """The copies of one worker, by the adapter that they read."""

    def __init__(
        self,
        make_event: Callable[[], StreamEvent] | None = None,
        register: Callable[[int, int], int] | None = None,
        measure: Callable[[Tensor], float] | None = None,
    ) -> None:
        """Without ``make_event`` a copy is complete when it returns; ``register`` returns CUDA's status.

        ``measure`` returns the milliseconds that a byte of a registered memory takes to the device.
        """
        self._make_event = make_event
        self._register = register
        self._measure = measure
        self._byte_ms = 0.0
        self._last: dict[int, StreamEvent] = {}

    def register(self, memory: Tensor) -> bool:
        """Let the device read a memory itself; return whether it does."""
        if self._register is None:
            return False
        size_bytes = memory.numel() * memory.element_size()
        status = self._register(memory.data_ptr(), size_bytes)
        if status != 0:
            found = {"status": status, "size_bytes": size_bytes}
            _log.warning("memory for adapters is not registered: slots fill more slowly", extra=found)
        elif self._measure is not None:
            self._byte_ms = self._measure(memory)
            _log.info("memory for adapters is registered", extra={"gib_per_second": self._gib_per_second})
        return status == 0

    @property
    def _gib_per_second(self) -> float:
        return round(1000.0 / (self._byte_ms * (1 << 30)), 2) if self._byte_ms else 0.0

    def stall_ms(self, began: float, size_bytes: int) -> float:
        """Return how long copies of so many bytes, begun at ``began`` (`perf_counter`), hold up the steps.

        That is the time of the calls, or of the device where they do not wait for it.
        """
        return max((time.perf_counter() - began) * 1e3, size_bytes * self._byte_ms)

    def mark(self, number: int) -> None:
        """Record the event after all copies of an adapter so far."""
        if self._make_event is not None:
            event = self._last[number] = self._make_event()
            event.record()

    def settle(self, number: int) -> None:
        """Return once no copy reads an adapter's memory: mostly at once, at the latest after a step."""
        event = self._last.pop(number, None)
        if event is not None and not event.query():
            event.synchronize()


def copies_to(device: Any) -> Copies:
    """Return the copies to a device of torch's."""
    import torch

    if torch.device(device).type != "cuda":
        return Copies()
    runtime = torch.cuda.cudart()
    return Copies(
        make_event=torch.cuda.Event,
        register=lambda begin, size: int(runtime.cudaHostRegister(begin, size, _PORTABLE)),
        measure=lambda memory: _byte_ms(memory, device),
    )


def _byte_ms(memory: Tensor, device: Any) -> float:
    """Return the milliseconds per byte of a copy to a CUDA device, from events around the second of two."""
    import torch

    sample = memory[: max(1, _SAMPLE_BYTES // memory.element_size())]
    place = torch.empty_like(sample, device=device)
    place.copy_(sample, non_blocking=True)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    place.copy_(sample, non_blocking=True)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end) / (sample.numel() * sample.element_size()))


def copy_all(places: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Copy tensors to places of the same shapes."""
    import torch

    if places and places[0].device.type == "cpu":
        torch._foreach_copy_(places, tensors)  # one call for all
        return
    for place, tensor in zip(places, tensors, strict=True):
        place.copy_(tensor, non_blocking=True)  # _foreach_copy_ from host memory waits for each
