"""The engine (`vllm/`), the builder process, the bus and Postgres: one technology a package or file."""
