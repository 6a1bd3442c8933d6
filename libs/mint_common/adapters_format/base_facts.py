"""Facts about a base that adapter checks need, read without loading weights."""

from dataclasses import dataclass, field
from typing import Literal

from mint_common.ids import BaseName, Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsFacts:
    """The experts of one layer: how many, and (in_features, out_features) of each projection.

    The other fields are transformers' words for the parameters that hold all experts: ``gated`` is false
    where there is no gate_proj; else gate and up are one parameter, gate first, or row by row in turns where
    it is ``interleaved``. ``transposed`` parameters are ``[experts, in, out]``. ``biased`` ones have biases.
    """

    count: int
    projections: dict[str, tuple[int, int]]
    gated: bool = True
    biased: bool = False
    transposed: bool = False
    interleaved: bool = False


PICKED_KEYS = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k")
"""The keys of configs, by family, with the number of a layer's experts that a token passes through."""


def picked_experts(config: object) -> int | None:
    """Return that number from transformers' config of a text model, None where it has none."""
    found = (getattr(config, key, None) for key in PICKED_KEYS)
    return next((picked for picked in found if isinstance(picked, int)), None)


ProbeStatus = Literal["ok", "failed", "left out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeLine:
    """One part of a probe. ``nats`` is the largest difference; ``note`` explains the line, and ``right``
    names the targets that are right alone."""

    part: str
    status: ProbeStatus
    nats: float | None = None
    note: str = ""
    right: tuple[str, ...] = ()

    def told(self) -> str:
        """Return the line as a user reads it."""
        size = "" if self.nats is None else f", {self.nats:.1e} nats"
        return f"{self.status}{size}{f': {self.note}' if self.note else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The lines of a base's probe, the dtype of its engine, what of it was small, and how long it took."""

    lines: tuple[ProbeLine, ...]
    dtype: str
    small: str
    seconds: float


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
    not trained, and so is one that was added as ``served_only``. One that is ``trained_only`` has no engine.

    Names of modules are those of transformers' causal LM, which PEFT uses too. ``checkpoint_names`` maps a
    module, or a projection of experts, to its name in the base's files where that is another; ``*`` in it
    stands for the number of an expert, and without one a tensor holds all experts. ``refused`` maps the leaf
    names that take no LoRA to the reason, a sentence.

    ``layer_kinds`` has transformers' word for each layer (``sliding_attention``), () where all have full
    attention. ``window`` is how many tokens those see that slide or attend to a chunk. ``shares_prompts``:
    completions of one prompt are trained behind one copy of it; false where layers read a row as a whole, so
    that each completion has its prompt before it; None is not known.

    ``probe`` is what `mint base add` found of the base; None of one that was not probed.
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
    layer_kinds: tuple[str, ...] = ()
    window: int | None = None
    shares_prompts: bool | None = None
    checkpoint_names: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    served_only: bool = False
    trained_only: bool = False
    probe: ProbeResult | None = None

    def __hash__(self) -> int:
        """Return a hash of what names the base."""
        return hash((self.name, self.digest))
