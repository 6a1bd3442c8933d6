"""Traces, logs and metrics: what a service tells about itself, never payloads or secrets."""

from mint_common.telemetry.setup import flush, setup

__all__ = ["flush", "setup"]
