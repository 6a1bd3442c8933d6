"""One trace: from the REST submit through NATS to the load of the trained adapter."""

from collections.abc import Sequence

import pytest
from e2e.stack import RunningStack

from mint_common.testing.otlp import OtlpReceiver, ReceivedSpan

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SERVICES = {"gateway", "rollout", "trainer", "registry", "loader"}
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SECONDS = 60.0


def test_one_trace_from_submit_to_load(stack: RunningStack, traces: OtlpReceiver) -> None:
    stack.make_policy("traced")
    body = {"policy": "traced", "task": "mode:copy", "steps": 1, "prompts_per_step": 2, "group_size": 4}
    headers = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
    job_id = stack.http.post("/mint/v1/jobs", json=body, headers=headers).json()["job_id"]
    stack.wait_for_end(job_id)

    traces.wait_for(_is_complete, timeout_seconds=SECONDS)


def _is_complete(spans: Sequence[ReceivedSpan]) -> bool:
    found = [span for span in spans if span.trace_id == TRACE_ID]
    is_loaded = any("load" in span.name for span in found if span.service == "loader")
    return {span.service for span in found} >= SERVICES and is_loaded
