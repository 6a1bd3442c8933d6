"""The Tinker API under ``/api/v1``, as the official SDK speaks it (docs/guides/tinker.md)."""
