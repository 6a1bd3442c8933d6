"""What must be known of a base to check an adapter against it, read without loading any weights."""

from dataclasses import dataclass

from mint_common.ids import BaseName, Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """A base model's name, content digest, shape facts and limits.

    ``modules`` maps the full name of each linear module that may carry LoRA
    (``model.layers.0.self_attn.q_proj``) to (in_features, out_features). ``targets`` are the leaf names among
    them. ``max_rank`` is the largest rank that engines of this base have slots for.
    """

    name: BaseName
    digest: Digest
    architecture: str
    vocab_size: int
    max_context: int
    targets: tuple[str, ...]
    modules: dict[str, tuple[int, int]]
    max_rank: int
