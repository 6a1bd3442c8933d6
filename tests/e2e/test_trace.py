"""One trace: from the REST submit through NATS to the load of the trained adapter.

`GOLDEN=write` draws it anew for docs/operate/operations.md.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from e2e.stack import RunningStack
from e2e.trace_picture import draw
from span_receiver import OtlpReceiver, ReceivedSpan

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SERVICES = {"gateway", "rollout", "trainer", "registry", "loader"}
CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{CALLER}-00f067aa0ba902b7-00"}
"""They neither stop the recording of a trace nor choose it: its own is linked to the caller's."""
SECONDS = 60.0
PICTURE = Path(__file__).parents[2] / "docs/images/trace.svg"


def test_one_trace_from_submit_to_load(stack: RunningStack, traces: OtlpReceiver) -> None:
    stack.make_policy("traced")
    body = {"policy": "traced", "task": "mode:copy", "steps": 1, "prompts_per_step": 2, "group_size": 4}
    submitted = stack.http.post("/mint/v1/jobs", json=body, headers=HEADERS)
    stack.wait_for_end(submitted.json()["job_id"])
    trace_id = submitted.headers["x-mint-trace-id"]
    assert trace_id != CALLER

    spans = traces.wait_for(partial(_is_complete, trace_id), timeout_seconds=SECONDS)
    picture = draw([span for span in spans if span.trace_id == trace_id])
    if os.environ.get("GOLDEN") == "write":
        PICTURE.write_text(picture)
    for drawn in (picture, PICTURE.read_text()):
        told = " ".join(ET.fromstring(drawn).itertext())
        assert all(f"{service}: " in told for service in SERVICES), told
        assert "loader: load" in told


def _is_complete(trace_id: str, spans: Sequence[ReceivedSpan]) -> bool:
    found = [span for span in spans if span.trace_id == trace_id]
    is_loaded = any("load" in span.name for span in found if span.service == "loader")
    return {span.service for span in found} >= SERVICES and is_loaded


def test_a_chat_says_what_answered_in_the_conventions_of_genai(
    stack: RunningStack, traces: OtlpReceiver
) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "2 4"}], "max_tokens": 3}
    chats: list[str] = []
    for stream in (False, True):
        asked = body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})
        answer = stack.http.post("/v1/chat/completions", json=asked, headers=HEADERS).raise_for_status()
        chats.append(answer.headers["x-mint-trace-id"])
    assert CALLER not in chats

    def are_told(spans: Sequence[ReceivedSpan]) -> bool:
        return all(any(_says_genai(span) for span in spans if span.trace_id == each) for each in chats)

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
