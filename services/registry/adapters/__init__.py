"""The registry's store: Postgres, and memory for tests."""
