"""vLLM: the engine process, the loader's extensions of it, and the data read from it."""
