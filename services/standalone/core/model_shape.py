"""The sizes of a model: parameters, LoRA sites, KV cache."""

from collections.abc import Iterable
from dataclasses import dataclass

from mint_common.adapters_format.sites import FOLDED
from services.trainer.core.microbatches import TokenNumbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A projection that LoRA can adapt: its number in the model, and its widths."""

    name: str
    inputs: int
    outputs: int
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a model. ``fixed_parameters`` are those beside ``linears``: embeddings, norms, routers.

    ``kv_values`` are the numbers that a token adds to the KV cache in the engine's dtype, ``kv_bytes`` those
    that sparse attention's indexer adds in bytes; ``kv_heads`` share them out, 1 where attention is latent.
    ``window_values`` of the numbers are of layers that cache no more than ``window`` tokens of a sequence;
    ``state_values`` are the numbers that recurrent layers have of a sequence, however long it is.
    ``layer_parameters`` are those of the largest layer, ``layer_values`` the numbers that its linears read
    and write for a token, which passes through ``picked_share`` of the experts only.
    """

    architecture: str
    layers: int
    hidden_size: int
    vocab_size: int
    max_context: int
    dtype: str
    linears: tuple[Linear, ...]
    fixed_parameters: int
    kv_values: int
    kv_heads: int
    layer_parameters: int
    layer_values: int
    kv_bytes: int = 0
    picked_share: float = 1.0
    window: int = 0
    window_values: int = 0
    state_values: int = 0

    @property
    def token_numbers(self) -> TokenNumbers:
        """Return the numbers per token in a forward pass."""
        picked = [
            (each, each.count * (self.picked_share if each.name.startswith("experts.") else 1.0))
            for each in self.linears
        ]
        return TokenNumbers(
            read=int(sum(each.inputs * count for each, count in picked)),
            written=int(sum(each.outputs * count for each, count in picked)),
            layers=self.layers,
            width=self.hidden_size,
        )

    @property
    def expert_parameters(self) -> int:
        """Return the parameters of the routed experts."""
        return _weights(each for each in self.linears if each.name.startswith("experts."))

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return self.fixed_parameters + _weights(self.linears)

    def lora_parameters(self, rank: int) -> int:
        """Return the parameters of an adapter of a rank on every site that is served."""
        return rank * sum((each.inputs + each.outputs) * each.count for each in self.lora_linears)

    @property
    def lora_linears(self) -> tuple[Linear, ...]:
        """Return the linears that engines have LoRA for."""
        return tuple(each for each in self.linears if each.name != FOLDED)


def _weights(linears: Iterable[Linear]) -> int:
    return sum(each.inputs * each.outputs * each.count for each in linears)
