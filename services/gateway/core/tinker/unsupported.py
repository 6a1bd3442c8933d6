"""What of the Tinker API this server leaves out, and what serves instead."""

from collections.abc import Mapping

from mint_common.errors import MintError


class NotServed(MintError):
    """{route} is not served here: {instead}"""

    code = "not_served"
    http_status = 422


EXTERNAL = "save weights with save_weights_for_sampler, and download them by external_weights_urls"
"""Instead of ``save_weights_external``."""

UNSUPPORTED: Mapping[tuple[str, str], str] = {
    ("POST", "create_custom_loss"): (
        "losses of one's own are computed by the client: use forward_backward_custom"
    ),
    ("GET", "sessions/{session_id}/trace_export"): (
        "traces go to the collector at MINT_TELEMETRY_OTLP_ENDPOINT, where every request's trace id finds it"
    ),
    ("GET", "billing/usage/events"): "nothing is billed; /metrics of each service counts what is used",
    ("GET", "billing/usage/checkpoints/current"): (
        "nothing is billed; the lists of checkpoints tell the size of each"
    ),
    ("GET", "audit"): "this server's own log of who did what is GET /mint/v1/audit",
    ("POST", "auth/token"): "keys are used as they are: send one as X-API-Key",
    ("GET", "auth/apikey/me"): "keys are looked at with 'mint key'",
    ("DELETE", "auth/apikey/me"): "keys are revoked with 'mint key'",
}
"""Method and route under ``/api/v1``, and what serves instead."""
