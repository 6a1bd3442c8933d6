"""One trace: from the REST submit through NATS to the load of the trained adapter.

`GOLDEN=write` draws it anew for docs/operations.md.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from e2e.stack import RunningStack
from e2e.trace_picture import draw
from span_receiver import OtlpReceiver, ReceivedSpan

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SERVICES = {"gateway", "rollout", "trainer", "registry", "loader"}
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CHAT_IDS = ("5bf92f3577b34da6a3ce929d0e0e4736", "6bf92f3577b34da6a3ce929d0e0e4736")
SECONDS = 60.0
PICTURE = Path(__file__).parents[2] / "docs/images/trace.svg"


def test_one_trace_from_submit_to_load(stack: RunningStack, traces: OtlpReceiver) -> None:
    stack.make_policy("traced")
    body = {"policy": "traced", "task": "mode:copy", "steps": 1, "prompts_per_step": 2, "group_size": 4}
    headers = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
    job_id = stack.http.post("/mint/v1/jobs", json=body, headers=headers).json()["job_id"]
    stack.wait_for_end(job_id)

    spans = traces.wait_for(_is_complete, timeout_seconds=SECONDS)
    picture = draw([span for span in spans if span.trace_id == TRACE_ID])
    if os.environ.get("GOLDEN") == "write":
        PICTURE.write_text(picture)
    for drawn in (picture, PICTURE.read_text()):
        told = " ".join(ET.fromstring(drawn).itertext())
        assert all(f"{service}: " in told for service in SERVICES), told
        assert "loader: load" in told


def _is_complete(spans: Sequence[ReceivedSpan]) -> bool:
    found = [span for span in spans if span.trace_id == TRACE_ID]
    is_loaded = any("load" in span.name for span in found if span.service == "loader")
    return {span.service for span in found} >= SERVICES and is_loaded


def test_a_chat_says_what_answered_in_the_conventions_of_genai(
    stack: RunningStack, traces: OtlpReceiver
) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "2 4"}], "max_tokens": 3}
    for stream, parent in ((False, CHAT_IDS[0]), (True, CHAT_IDS[1])):
        headers = {"traceparent": f"00-{parent}-00f067aa0ba902b7-01"}
        asked = body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})
        stack.http.post("/v1/chat/completions", json=asked, headers=headers).raise_for_status()

    def are_told(spans: Sequence[ReceivedSpan]) -> bool:
        return all(any(_says_genai(span) for span in spans if span.trace_id == each) for each in CHAT_IDS)

    traces.wait_for(are_told, timeout_seconds=SECONDS)


def _says_genai(span: ReceivedSpan) -> bool:
    told = span.attributes
    return (
        told.get("gen_ai.operation.name") == "chat"
        and told.get("gen_ai.request.model") == told.get("gen_ai.response.model") == "tiny"
        and 0 < int(told.get("gen_ai.usage.output_tokens", 0)) <= 3
        and int(told.get("gen_ai.usage.input_tokens", 0)) > 0
        and told.get("mint.tier") == "base"
    )
