"""Facts about a base that adapter checks need, read without loading weights."""

from dataclasses import dataclass, field

from mint_common.ids import BaseName, Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsFacts:
    """The experts of one layer: how many, and (in_features, out_features) of each projection."""

    count: int
    projections: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """A base model's name, content digest, shapes and limits.

    ``modules`` maps the full name of each linear module that may carry LoRA
    (``model.layers.0.self_attn.q_proj``) to (in_features, out_features). ``experts`` does the same for each
    layer of routed experts (``model.layers.0.mlp.experts``); a dense base has none. ``targets`` are the leaf
    names among both. ``max_rank`` is the largest rank of engine slots for this base.

    ``norms`` maps modules, and projections of experts (``model.layers.0.mlp.experts.up_proj``, all experts
    together), to the Frobenius norm of the base's weight; missing norms are unknown.

    ``quantization`` names the weights' storage (``fp8``, ``awq``), "" for floats. A quantized base is served,
    not trained.
    """

    name: BaseName
    digest: Digest
    architecture: str
    vocab_size: int
    max_context: int
    targets: tuple[str, ...]
    modules: dict[str, tuple[int, int]]
    max_rank: int
    experts: dict[str, ExpertsFacts] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    quantization: str = ""

    def __hash__(self) -> int:
        """Return a hash of what names the base."""
        return hash((self.name, self.digest))
