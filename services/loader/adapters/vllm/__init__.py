"""vLLM: the engine process, what the loader adds to it, and what is read from it."""
