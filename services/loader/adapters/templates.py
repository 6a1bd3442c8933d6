"""Adapters of one shape are wrapped alike: the second one takes over what was found out about the first.

vLLM's way from tensors to the weights of its modules (names, checks, merges) is the same for all adapters
that have the same tensors, and takes longer than making the views does.
"""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

Tensors = Mapping[str, Any]  # Any, here and below: this module is imported before torch and vLLM are
Part = tuple[bool, Any]
"""(whether it is a tensor's name, the name or whatever else stands there)."""


class Template:
    """What of a module's weights is which of an adapter's tensors."""

    def __init__(self, lora: Any, tensors: Tensors) -> None:
        names = {id(tensor): name for name, tensor in tensors.items()}
        self._lora = copy(lora)
        self._lora.loras = {}
        self._layers = [
            (module, _hollow(layer), _parts(layer.lora_a, names), _parts(layer.lora_b, names))
            for module, layer in lora.loras.items()
        ]
        taken = sum(
            named
            for _, _, a, b in self._layers
            for parts in (a, b)
            for named, _ in (parts if isinstance(parts, list) else [parts])
        )
        self.fits = taken == len(tensors)
        """Whether every tensor is taken as it is: cut or copied ones cannot be found again."""

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


def _hollow(layer: Any) -> Any:
    hollow = copy(layer)
    hollow.lora_a = hollow.lora_b = None
    return hollow


def _parts(value: Any, names: Mapping[int, str]) -> Part | list[Part]:
    if isinstance(value, list):
        return [_part(each, names) for each in value]
    return _part(value, names)


def _part(value: Any, names: Mapping[int, str]) -> Part:
    name = names.get(id(value))
    return (False, value) if name is None else (True, name)


def _filled(parts: Part | list[Part], tensors: Tensors) -> Any:
    if isinstance(parts, list):
        return [tensors[value] if named else value for named, value in parts]
    named, value = parts
    return tensors[value] if named else value
