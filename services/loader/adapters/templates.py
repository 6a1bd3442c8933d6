"""Adapters of one shape are wrapped alike: the second one takes over what was found out about the first.

vLLM's way from tensors to the weights of its modules (names, checks, merges) and the cutting of a worker's
part out of them are the same for all adapters that have the same tensors, and take longer than making the
views does.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

Tensors = Mapping[str, Any]  # Any, here and below: this module is imported before torch and vLLM are


@dataclass(frozen=True, slots=True)
class Whole:
    """An adapter's tensor as it is."""

    name: str


@dataclass(frozen=True, slots=True)
class Cut:
    """A view of an adapter's tensor, ``offset`` items behind its beginning."""

    name: str
    size: Sequence[int]
    stride: Sequence[int]
    offset: int


@dataclass(frozen=True, slots=True)
class Same:
    """What is the same in all adapters: nothing, or one number that stands for a whole tensor."""

    value: Any


Part = Whole | Cut | Same


class Template:
    """What of a module's weights is which of an adapter's tensors."""

    def __init__(self, lora: Any, tensors: Tensors) -> None:
        where = _Places(tensors)
        self._lora = copy(lora)
        self._lora.loras = {}
        self._layers = [
            (module, _hollow(layer), where.parts(layer.lora_a), where.parts(layer.lora_b))
            for module, layer in lora.loras.items()
        ]
        self.fits = not where.strange and where.taken == set(tensors)
        """Whether every tensor is taken, as it is or cut: a copied one cannot be found again."""

    def fill(self, number: int, tensors: Tensors) -> Any:
        """Return the LoRAModel of another adapter's tensors."""
        lora = copy(self._lora)
        lora.id, lora.loras = number, {}
        for module, hollow, a, b in self._layers:
            layer = copy(hollow)
            layer.lora_a, layer.lora_b = _filled(a, tensors), _filled(b, tensors)
            lora.loras[module] = layer
        return lora


class Templates:
    """The templates of the shapes that were seen last."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._known: dict[tuple[Any, ...], Template] = {}

    def wrap(self, number: int, tensors: Tensors, *, rank: int, slowly: Callable[[], Any]) -> Any:
        """Return an adapter's LoRAModel, made ``slowly`` if none of its shape was."""
        key = (rank, *((name, tensor.shape) for name, tensor in tensors.items()))
        known = self._known.get(key)
        if known is not None:
            return known.fill(number, tensors)
        lora = slowly()
        template = Template(lora, tensors)
        if template.fits:
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[key] = template
        return lora


class _Places:
    """Where an adapter's tensors lie, and which of them were found in its weights."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._by_address = sorted((tensor.data_ptr(), name) for name, tensor in tensors.items())
        self.taken: set[str] = set()
        self.strange = False

    def parts(self, value: Any) -> Part | list[Part]:
        return [self._part(each) for each in value] if isinstance(value, list) else self._part(value)

    def _part(self, value: Any) -> Part:
        name = self._names.get(id(value))
        if name is not None:
            self.taken.add(name)
            return Whole(name)
        if value is None or not any(value.stride()):
            return Same(value)
        cut = self._cut(value)
        if cut is None:
            self.strange = True
            return Same(None)
        self.taken.add(cut.name)
        return cut

    def _cut(self, value: Any) -> Cut | None:
        """Return which tensor a value is a view of."""
        at = bisect_right(self._by_address, value.data_ptr(), key=lambda place: place[0]) - 1
        if at < 0:
            return None
        begin, name = self._by_address[at]
        tensor = self._tensors[name]
        if value.dtype != tensor.dtype:
            return None
        offset = (value.data_ptr() - begin) // tensor.element_size()
        last = sum((length - 1) * step for length, step in zip(value.shape, value.stride(), strict=True))
        if offset + last >= tensor.numel():
            return None
        return Cut(name, value.shape, value.stride(), offset)


def _hollow(layer: Any) -> Any:
    hollow = copy(layer)
    hollow.lora_a = hollow.lora_b = None
    return hollow


def _filled(parts: Part | list[Part], tensors: Tensors) -> Any:
    return [_fill(part, tensors) for part in parts] if isinstance(parts, list) else _fill(parts, tensors)


def _fill(part: Part, tensors: Tensors) -> Any:
    match part:
        case Whole():
            return tensors[part.name]
        case Same():
            return part.value
        case Cut():
            tensor = tensors[part.name]
            return tensor.as_strided(part.size, part.stride, tensor.storage_offset() + part.offset)
