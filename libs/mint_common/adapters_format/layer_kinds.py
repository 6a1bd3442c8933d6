"""Kinds of layers by what they do with a sequence, in transformers' words (``layer_types`` of a config)."""

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
INDEXED = "indexed_attention"
"""Attention to the keys that an indexer picks of the whole sequence."""
MASKED = frozenset({FULL, SLIDING, CHUNKED})
"""Kinds in which a mask alone separates sequences of one line."""
TOKENWISE = frozenset({"moe", "mlp"})
"""Kinds that compute each token by itself."""
