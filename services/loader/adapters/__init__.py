"""vLLM, the local disk cache, the bus: one technology a file."""
