"""One trace: from the REST submit through NATS to the load of the trained adapter."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.stack import RunningStack, start_stack

from mint_common.testing.otlp import OtlpReceiver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SERVICES = {"gateway", "rollout", "trainer", "registry", "loader"}


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


def test_one_trace_from_submit_to_load(stack_folder: Path, receiver: OtlpReceiver) -> None:
    stack = start_stack(stack_folder / "traced", {"MINT_TELEMETRY_OTLP_ENDPOINT": receiver.endpoint})
    try:
        stack.make_policy("traced")
        trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
        body = {"policy": "traced", "task": "mode:copy", "steps": 1, "prompts_per_step": 2, "group_size": 4}
        headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
        job_id = stack.http.post("/mint/v1/jobs", json=body, headers=headers).json()["job_id"]
        stack.wait_for_end(job_id)
        _wait_for_load(stack)
    finally:
        stack.stop()

    spans = [span for span in receiver.spans if span.trace_id == trace_id]
    assert {span.service for span in spans} >= SERVICES
    assert any("load" in span.name for span in spans if span.service == "loader")


def _wait_for_load(stack: RunningStack) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if stack.get("/adapters"):
            return
        time.sleep(0.1)
    raise AssertionError("the adapter was never loaded")
