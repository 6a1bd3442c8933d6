"""MinT's extension of vLLM's worker, in the engine process: adapters are laid out outside the engine's loop.

vLLM's own `add_lora` reads, parses, merges and copies between two steps of the engine, and every tenant waits
for it. Here the builder process has read, checked and converted an adapter before; the
engine maps it (`enter`) and copies it into a slot in slices of limited length (`activate`), most often by one
call.

Invariants: no method raises (with several workers an exception leaves the others' replies unread, and later
calls get them: vllm-project/vllm#57846), failures are values; the loader has at most ``max_cpu_loras``
adapters here and ``max_loras`` in slots, so vLLM's own LRU never evicts and nothing is ever read inside a
step.

Written against vLLM 0.32; tests/integration/loader/test_staging_engine.py fails when what it uses changes.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

from services.loader.adapters.vllm.copies import Copies
from services.loader.adapters.vllm.routes import book_of
from services.loader.adapters.vllm.templates import Templates

P = ParamSpec("P")
Reply = dict[str, Any]  # Any: msgpack carries it; the keys are read by engine.py only
Memory = tuple[int, str | bytes, int, bytes]
"""An adapter's rank, the path of where it lies or its bytes, where it begins there, its tensors' places."""
_Lora = Any  # vLLM's LoRAModel and its parts: this module is imported before vLLM is


def _replying(method: Callable[P, Reply]) -> Callable[P, Reply]:
    """Turn exceptions into values."""

    @wraps(method)
    def reply(*args: P.args, **kwargs: P.kwargs) -> Reply:
        try:
            return method(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  # whatever vLLM raises must not cross the ranks
            return _problem(error)

    return reply


class WorkerExtension:
    """Mixed into vLLM's Worker as ``worker_extension_cls``; its methods are called by `collective_rpc`."""

    model_runner: Any  # vLLM's Worker has it

    @_replying
    def mint_enter(self, number: int, memory: Memory | None, leaving: list[int]) -> Reply:
        """Map an adapter that the builder has laid out, unless it is: from then on it is in host memory.

        Here and in `mint_activate`, ``leaving`` are forgotten before.
        """
        adapters = self._mint_adapters()
        adapters.drop(leaving)
        return adapters.enter(number, memory) if memory is not None else {"stall_ms": 0.0}

    @_replying
    def mint_arena(self, path: str) -> Reply:
        """Map the memory that adapters are laid out in, and register it with the device."""
        self._mint_adapters().open_arena(path)
        return {}

    @_replying
    def mint_activate(
        self, number: int, victim: int | None, slice_ms: float, memory: Memory | None, leaving: list[int]
    ) -> Reply:
        """Copy an adapter, or a part of it, into a slot. One that is only laid out is mapped first."""
        adapters = self._mint_adapters()
        adapters.drop(leaving)
        return adapters.activate(number, victim, slice_ms, memory)

    @_replying
    def mint_drop(self, numbers: list[int]) -> Reply:
        """Forget adapters."""
        self._mint_adapters().drop(numbers)
        return {}

    @_replying
    def mint_routes(self, name: str) -> Reply:
        """Return and forget the routes of a request's completions, and how many bytes a token takes."""
        book = book_of(self.model_runner)
        if book is None:
            return {"routes": {}, "token_bytes": 0}
        layers, experts = book.shape_per_token
        found = {str(completion): rows.tobytes() for completion, rows in book.fetch(name).items()}
        return {"routes": found, "token_bytes": 2 * layers * experts}

    @_replying
    def mint_residents(self) -> Reply:
        """Return the adapters here."""
        return self._mint_adapters().residents()

    def _mint_adapters(self) -> "WorkerAdapters":
        adapters = self.__dict__.get("mint_adapters")
        if adapters is None:
            from services.loader.adapters.vllm.copies import copies_to

            manager = self.model_runner.lora_manager
            adapters = self.__dict__["mint_adapters"] = WorkerAdapters(manager, copies_to(manager.device))
        return adapters


@dataclass(slots=True)
class Copying:
    """An adapter being copied into the slot ``index``, with its remaining modules."""

    number: int
    index: int
    modules: Iterator[tuple[str, Any]]


class WorkerAdapters:
    """One worker's adapters, and the one that is being copied into a slot."""

    def __init__(self, worker_manager: Any, copies: "Copies") -> None:
        from services.loader.adapters.vllm.module_names import renaming

        self._loader = worker_manager
        self._manager = worker_manager._adapter_manager  # noqa: SLF001  # vLLM offers no other way in
        self._rename = renaming(self._manager)
        self._copying: Copying | None = None
        self._templates = Templates()
        self._copies = copies
        self._arena: tuple[str, Any] = "", None

    def enter(self, number: int, memory: Memory) -> Reply:
        """Map it and register it with vLLM; ``gone`` when the builder that laid it out has ended."""
        from services.loader.adapters.vllm.lora_models import map_laid_out

        began = time.perf_counter()
        if number in self._manager._registered_adapters:  # noqa: SLF001
            return {"stall_ms": 0.0}  # asked again: another worker came too late
        rank, path, begin, tensor_index = memory
        try:
            if path == self._arena[0]:
                mapped = self._arena[1][begin // self._arena[1].element_size() :]
            else:
                mapped = map_laid_out(path, dtype=self._loader.lora_config.lora_dtype)
        except FileNotFoundError:
            return {"gone": True}
        lora = self._templates.wrap(
            number,
            mapped,
            shape=(rank, tensor_index),
            slowly=lambda: self._wrap(mapped, tensor_index, rank=rank, number=number),
        )
        self._manager._registered_adapters[number] = lora  # noqa: SLF001  # add_adapter would merge again
        return {"stall_ms": _milliseconds_since(began)}

    def open_arena(self, path: str) -> None:
        """Map the arena and register it."""
        from services.loader.adapters.vllm.lora_models import map_arena

        memory = map_arena(path, dtype=self._loader.lora_config.lora_dtype)
        self._copies.register(memory)
        self._arena = path, memory

    def _wrap(self, mapped: Any, tensor_index: bytes, *, rank: int, number: int) -> _Lora:
        from services.loader.adapters.builder.wire import read_index
        from services.loader.adapters.vllm.lora_models import model_of, views

        tensors = views(mapped, read_index(tensor_index))
        lora = model_of(self._loader, tensors, rank=rank, number=number, rename=self._rename)
        merge(self._manager, lora)
        return lora

    def activate(
        self, number: int, victim: int | None, slice_ms: float, memory: Memory | None = None
    ) -> Reply:
        """Copy module by module until the slice is over. A half-copied slot has no adapter.

        The victim leaves its slot in any case: the loader has already counted it out.
        Of several workers each is done in its own time: one that was done says so when it is called again.
        It waits while no slot is free yet: the loader counts an adapter out before it sends the call.
        """
        from services.loader.adapters.vllm.rank_part import set_lora, size_bytes

        began = time.perf_counter()
        manager = self._manager
        if number in manager.lora_index_to_id:
            return {"done": True, "stall_ms": _milliseconds_since(began)}
        if victim is not None:
            manager.deactivate_adapter(victim)
        if memory is not None and "gone" in (entered := self.enter(number, memory)):
            return entered
        lora = manager._registered_adapters.get(number)  # noqa: SLF001
        if lora is None:
            return {"done": False, "lost": True, "stall_ms": _milliseconds_since(began)}
        if self._copying is None or self._copying.number != number:
            if None not in manager.lora_index_to_id:
                return {"done": False, "waits": True, "stall_ms": _milliseconds_since(began)}
            index = manager.lora_index_to_id.index(None)
            self._copying = Copying(number, index, iter(manager.modules.items()))
        copying, self._copying = self._copying, None  # what fails here begins again, and skips no module
        copied = 0
        for name, module in copying.modules:
            layer = manager._get_lora_layer_weights(lora, name)  # noqa: SLF001
            if layer is None:
                module.reset_lora(copying.index)
            else:
                set_lora(module, copying.index, layer)
                copied += size_bytes(layer)
            if self._copies.stall_ms(began, copied) >= slice_ms:
                self._copies.mark(number)
                self._copying = copying
                return {"done": False, "stall_ms": self._copies.stall_ms(began, copied)}
        self._copies.mark(number)
        manager.lora_index_to_id[copying.index] = number
        manager._active_adapters[number] = None  # noqa: SLF001
        return {"done": True, "stall_ms": self._copies.stall_ms(began, copied)}

    def drop(self, numbers: Iterable[int]) -> None:
        """Remove adapters in any state; no code reads their memory later."""
        for number in numbers:
            if self._copying is not None and self._copying.number == number:
                self._copying = None
            self._copies.settle(number)
            self._manager.remove_adapter(number)

    def residents(self) -> Reply:
        """Return the numbers in host memory, and of those the ones in slots."""
        in_slots = [number for number in self._manager.lora_index_to_id if number is not None]
        return {"host": sorted(self._manager.list_adapters()), "slots": in_slots}


def merge(manager: Any, lora: _Lora) -> None:
    """Return an adapter's tensors in the form of vLLM's modules, and only the worker's part: views."""
    if not lora.loras:
        return  # other stages have all of it
    with unpinned():
        manager._create_merged_loras_inplace(lora)  # noqa: SLF001
    layers = {name: manager._get_lora_layer_weights(lora, name) for name in manager.modules}  # noqa: SLF001
    if not any(layers.values()):
        raise ValueError("no module of the base matches: it would answer as the bare base")
    from services.loader.adapters.vllm.rank_part import cut

    for name, layer in layers.items():
        if layer is not None:
            cut(manager.modules[name], layer)


@contextmanager
def unpinned() -> Iterator[None]:
    """Prevent vLLM from pinning an adapter's tensors one by one: a copy each, in the engine's loop.

    Copies could not be found again in the memory of the next adapter of the shape either.
    """
    import vllm.lora.model_manager as managers

    pins, managers.PIN_MEMORY = managers.PIN_MEMORY, False
    try:
        yield
    finally:
        managers.PIN_MEMORY = pins


def _problem(error: BaseException) -> Reply:
    return {"problem": f"{type(error).__name__}: {error}"}


def _milliseconds_since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3
