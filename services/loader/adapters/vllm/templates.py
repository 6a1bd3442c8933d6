"""Wrap adapters of one shape alike: the second one reuses the first one's template.

vLLM's conversion of tensors to the weights of its modules (names, checks, merges) and the cutting of a
worker's part are the same for all adapters with the same tensors at the same places, and take longer than
creating the views.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

_log = logging.getLogger(__name__)

MAX_SHAPES = 64

Memory = Any  # a flat tensor; Any, here and below: this module is imported before torch and vLLM are


@dataclass(frozen=True, slots=True)
class View:
    """A view of an adapter's memory, ``offset`` items after its start."""

    size: Sequence[int]
    stride: Sequence[int]
    offset: int


@dataclass(frozen=True, slots=True)
class Same:
    """A value that is the same in all adapters: None, or one number for a whole tensor."""

    value: Any


Part = View | Same


class Template:
    """Places of a module's weights in an adapter's memory."""

    def __init__(self, lora: Any, memory: Memory) -> None:
        self.fits = True
        """Whether everything is a view of the memory: a copy cannot be found again."""
        self._lora = copy(lora)
        self._lora.loras = {}
        self._layers = [
            (module, _hollow(layer), self._parts(layer.lora_a, memory), self._parts(layer.lora_b, memory))
            for module, layer in lora.loras.items()
        ]

    def fill(self, number: int, memory: Memory) -> Any:
        """Return the LoRAModel of another adapter."""
        lora = copy(self._lora)
        lora.id, lora.loras = number, {}
        for module, hollow, a, b in self._layers:
            layer = _twin(hollow)
            layer.lora_a, layer.lora_b = _filled(a, memory), _filled(b, memory)
            lora.loras[module] = layer
        return lora

    def _parts(self, value: Any, memory: Memory) -> Part | list[Part]:
        if isinstance(value, list):
            return [self._part(each, memory) for each in value]
        return self._part(value, memory)

    def _part(self, value: Any, memory: Memory) -> Part:
        if value is None or not any(value.stride()):
            return Same(value)
        offset = (value.data_ptr() - memory.data_ptr()) // memory.element_size()
        if value.dtype != memory.dtype or not 0 <= offset < memory.numel():
            self.fits = False
        return View(value.shape, value.stride(), offset)


class Templates:
    """The templates of the shapes that were seen last."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Template] = {}

    def wrap(self, number: int, memory: Memory, *, shape: Hashable, slowly: Callable[[], Any]) -> Any:
        """Return an adapter's LoRAModel, made ``slowly`` if none of its shape was."""
        known = self._known.get(shape)
        if known is not None:
            return known.fill(number, memory)
        lora = slowly()
        template = Template(lora, memory)
        if not template.fits:
            _log.warning("adapters of this shape are each wrapped slowly", extra={"number": number})
        else:
            if len(self._known) >= MAX_SHAPES:
                del self._known[next(iter(self._known))]
            self._known[shape] = template
        return lora


def _hollow(layer: Any) -> Any:
    hollow = copy(layer)
    hollow.lora_a = hollow.lora_b = None
    return hollow


def _twin(hollow: Any) -> Any:
    """Do what `copy` does, in a tenth of the time: this runs in the engine's loop, for every module."""
    twin = object.__new__(type(hollow))
    twin.__dict__.update(hollow.__dict__)
    return twin


def _filled(parts: Part | list[Part], memory: Memory) -> Any:
    return [_fill(part, memory) for part in parts] if isinstance(parts, list) else _fill(parts, memory)


def _fill(part: Part, memory: Memory) -> Any:
    match part:
        case View():
            return memory.as_strided(part.size, part.stride, memory.storage_offset() + part.offset)
        case Same():
            return part.value
