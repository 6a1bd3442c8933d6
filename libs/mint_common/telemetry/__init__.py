"""Traces, logs and metrics of a service, never payloads or secrets."""

from mint_common.telemetry.setup import flush, setup
