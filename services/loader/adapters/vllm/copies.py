"""Copies from host memory into slots, on the stream of the engine's steps.

On CUDA copies are asynchronous: one runs after the current step and before the next, and
nothing waits. It reads host memory meanwhile, so that memory is released only after its event.
The device reads registered memory itself; other memory is copied by CUDA first, within the call.

Not run on CUDA: tests/unit/loader/test_copies.py shows the order of calls with a simulated stream.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

_log = logging.getLogger(__name__)

Tensor = Any  # here and below: this module is imported before torch is
_PORTABLE = 1  # cudaHostRegisterPortable: registered for every context


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
    ) -> None:
        """Without ``make_event`` a copy is complete when it returns; ``register`` returns CUDA's status."""
        self._make_event = make_event
        self._register = register
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
        return status == 0

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
    )


def copy_all(places: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Copy tensors to places of the same shapes."""
    import torch

    if places and places[0].device.type == "cpu":
        torch._foreach_copy_(places, tensors)  # one call for all
        return
    for place, tensor in zip(places, tensors, strict=True):
        place.copy_(tensor, non_blocking=True)  # _foreach_copy_ from host memory waits for each
