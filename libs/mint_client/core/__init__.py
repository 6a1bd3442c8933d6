"""Decisions and views of the client, as values."""
