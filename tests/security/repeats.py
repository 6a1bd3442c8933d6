"""What becomes of a repeat of each request that changes something, written down for whoever adds a route."""

from collections.abc import Mapping

BY_THE_REGISTRY = frozenset(
    {
        "POST /mint/v1/policies",
        "PATCH /mint/v1/policies/{policy}",
        "POST /mint/v1/policies/{policy}/revisions/{revision}/retire",
        "POST /mint/v1/policies/{policy}/revisions/{revision}/restore",
        "POST /mint/v1/policies/{policy}/evaluations",
        "POST /mint/v1/policies/{policy}/aliases/{alias}/protect",
        "POST /mint/v1/policies/{policy}/aliases/{alias}/freeze",
        "PUT /mint/v1/policies/{policy}/aliases/{alias}",
        "DELETE /mint/v1/policies/{policy}/aliases/{alias}",
        "POST /mint/v1/policies/{policy}/aliases/{alias}/rollback",
        "POST /mint/v1/policies/{policy}/rules",
        "POST /mint/v1/policies/{policy}/rules/{rule}/pause",
        "POST /mint/v1/policies/{policy}/rules/{rule}/resume",
        "DELETE /mint/v1/policies/{policy}/rules/{rule}",
    }
)
"""The registry commits these once for each cause, with the answer (integration/registry/test_repeats.py)."""

_DERIVED = "what it makes has an id or a row of the request's cause: a repeat finds it"
_PLACED = "it is named by its place in a session's log, which holds one operation"
_SETS = "it sets what it says, and makes nothing: the last request that was sent counts"
_GONE = "what it removes stays removed: a repeat is answered 404 where the first answer was lost"
_READS = "it changes nothing that outlasts its answer"
_CALLED = "it samples once more: that is trained on too, as a branch of the conversation"
_SECRET = "it takes no Idempotency-Key: its answer holds a secret, which is never stored"

OTHERWISE: Mapping[str, str] = {
    "POST /mint/v1/policies/{policy}/revisions": "equal weights are one revision, however often they come",
    "POST /mint/v1/policies/{policy}/revisions/{revision}/resume": _DERIVED,
    "DELETE /mint/v1/policies/{policy}": _GONE,
    "POST /mint/v1/keys": _SECRET,
    "POST /mint/v1/keys/{key}/rotate": _SECRET,
    "DELETE /mint/v1/keys/{key}": _SECRET,
    "POST /mint/v1/tenants": "a tenant of a name is one; " + _SECRET,
    "POST /mint/v1/tenants/{tenant}/keys": _SECRET,
    "POST /mint/v1/webhooks": _SECRET,
    "POST /mint/v1/webhooks/{webhook}/rotate": _SECRET,
    "PATCH /mint/v1/webhooks/{webhook}": _SETS,
    "DELETE /mint/v1/webhooks/{webhook}": _GONE,
    "POST /mint/v1/webhooks/{webhook}/deliveries/{delivery}/replay": "receivers know a message by its id",
    "POST /mint/v1/gc": "it removes only what nothing uses: a repeat removes what is left of that",
    "POST /mint/v1/tasks/{task}/prompts": _READS,
    "POST /mint/v1/tasks/{task}/score": _READS,
    "POST /mint/v1/evaluations/run": _DERIVED,
    "POST /mint/v1/evaluations/compare": _DERIVED,
    "POST /mint/v1/evaluations/run/{run}/cancel": "a run that has ended stays as it is",
    "POST /mint/v1/jobs": _DERIVED,
    "POST /mint/v1/jobs/{job}/cancel": "a job that has ended stays as it is",
    "POST /mint/v1/jobs/{job}/pause": _SETS,
    "POST /mint/v1/jobs/{job}/resume": _SETS,
    "POST /mint/v1/jobs/{job}/episodes": "it hands out others; those of a lost answer come again in time",
    "POST /mint/v1/episodes/{episode}/reward": "an episode has one reward: the same again has no effect",
    "POST /mint/v1/episodes/{episode}/v1/chat/completions": _CALLED,
    "POST /mint/v1/episodes/{episode}/v1/chat/completions/tokens": _CALLED,
    "POST /mint/v1/episodes/{episode}/inference/v1/generate": _CALLED,
    "POST /mint/v1/episodes/{episode}/tokenize": _READS,
    "POST /mint/v1/adapters/{digest}/prewarm": _SETS,
    "POST /mint/v1/adapters/{digest}/{change}": _SETS,
    "POST /mint/v1/files/{file}/preview": _READS,
    "POST /v1/files": _DERIVED,
    "DELETE /v1/files/{file}": _GONE,
    "POST /v1/uploads": _DERIVED,
    "POST /v1/uploads/{upload}/parts": _DERIVED,
    "POST /v1/uploads/{upload}/complete": "an upload that is completed stays the file that it is",
    "POST /v1/uploads/{upload}/cancel": "an upload that is cancelled stays so",
    "POST /v1/fine_tuning/alpha/graders/run": _READS,
    "POST /v1/fine_tuning/alpha/graders/validate": _READS,
    "POST /v1/fine_tuning/jobs": _DERIVED,
    "POST /v1/fine_tuning/jobs/{fine_tuning_job}/cancel": "a job that has ended stays as it is",
    "POST /v1/fine_tuning/jobs/{fine_tuning_job}/pause": _SETS,
    "POST /v1/fine_tuning/jobs/{fine_tuning_job}/resume": _SETS,
    **{
        f"POST {path}": _READS
        for path in (
            "/v1/completions",
            "/v1/chat/completions",
            "/v1/chat/completions/tokens",
            "/v1/responses",
            "/v1/chat/completions/render",
            "/v1/chat/completions/batch",
            "/v1/messages",
            "/v1/messages/count_tokens",
            "/ping",
            "/tokenize",
            "/detokenize",
            "/inference/v1/generate",
            "/api/v1/client/config",
            "/api/v1/client/dynamic_config",
            "/api/v1/telemetry",
            "/api/v1/get_info",
            "/api/v1/weights_info",
            "/api/v1/sessions/search",
            "/api/v1/retrieve_future",
            "/api/v1/asample",
            "/api/v1/save_weights_external",
            "/api/v1/create_custom_loss",
            "/api/v1/auth/token",
        )
    },
    "DELETE /api/v1/auth/apikey/me": _READS,
    "POST /api/v1/create_session": _DERIVED,
    "POST /api/v1/session_heartbeat": _SETS,
    "POST /api/v1/sessions/{session_id}/finish": "the first word stands",
    "PUT /api/v1/sessions/{session_id}/project": _SETS,
    "POST /api/v1/create_model": _PLACED,
    "POST /api/v1/forward_backward": _PLACED,
    "POST /api/v1/forward": _PLACED,
    "POST /api/v1/optim_step": _PLACED,
    "POST /api/v1/unload_model": _PLACED,
    "POST /api/v1/save_weights": _PLACED,
    "POST /api/v1/save_weights_for_sampler": _PLACED,
    "POST /api/v1/load_weights": _PLACED,
    "POST /api/v1/create_sampling_session": _PLACED,
    "POST /api/v1/mint/forward_backward_reverse_kl": _DERIVED,
    "POST /api/v1/mint/checkpoints/interpolate": _DERIVED,
    "POST /api/v1/copy_weights": _DERIVED,
    "POST /api/v1/training_runs/{model_id}/checkpoints/{checkpoint_id:path}/publish": _DERIVED,
    "DELETE /api/v1/training_runs/{model_id}/checkpoints/{checkpoint_id:path}/publish": _SETS,
    "PUT /api/v1/training_runs/{model_id}/checkpoints/{checkpoint_id:path}/ttl": _SETS,
    "DELETE /api/v1/training_runs/{model_id}/checkpoints/{checkpoint_id:path}": _GONE,
}
"""Why the others need no answer that is kept with the change."""
