"""The registry's store in Postgres."""
