"""What a client reports about itself costs little, whatever it reports: time, memory and lines of the log."""

import logging

import pytest
import zstandard
from security.gateway_rig import Answer, Rig, make_rig

from mint_common.line_budget import LineBudget
from mint_common.runtime.fair_gate import LoopGate
from services.gateway.core.tinker.telemetry import MAX_EVENTS, MAX_KIND, MAX_KINDS, OTHERS
from services.gateway.http.tinker import bodies

LOGGER = "services.gateway.http.tinker.sessions"
LINES_PER_SECOND = 3


@pytest.fixture
def rig() -> Rig:
    made = make_rig()
    made.http.state.gateway.report_lines = LineBudget(per_second=LINES_PER_SECOND)
    return made


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger=LOGGER)
    return lambda: [record for record in caplog.records if record.name == LOGGER]


async def report(rig: Rig, content: bytes) -> Answer:
    """Send a report as the official client may: as one zstd frame."""
    packed = zstandard.ZstdCompressor().compress(content)
    return await rig.ask(
        "POST", "/api/v1/telemetry", "read", headers=[("content-encoding", "zstd")], body=packed
    )


def events(event: bytes, *, count: int) -> bytes:
    return b'{"events":[' + b",".join([event] * count) + b"]}"


async def test_a_report_with_many_errors_is_one_line_that_counts_them_by_kind(rig, lines):
    many = [b'{"error_type":"Kind%d%s"}' % (number, b"x" * 200) for number in range(2 * MAX_KINDS)]
    content = (
        b'{"events":[' + b",".join([*many, b'{"event":"E","severity":"ERROR"}', b'{"event":"I"}']) + b"]}"
    )
    assert (await report(rig, content)).json() == {"status": "accepted"}
    (line,) = lines()
    assert sum(line.kinds.values()) == 2 * MAX_KINDS + 1
    assert line.kinds[OTHERS] == MAX_KINDS + 1
    assert len(line.kinds) == MAX_KINDS + 1
    assert max(map(len, line.kinds)) <= MAX_KIND


async def test_a_report_of_more_events_than_clients_send_is_refused_for_good(rig, lines):
    assert (await report(rig, events(b'{"error_type":"x"}', count=MAX_EVENTS))).status == 200
    answer = await report(rig, events(b'{"error_type":"x"}', count=MAX_EVENTS + 1))
    assert answer.status == 422
    assert "events" in answer.json()["detail"]
    assert len(lines()) == 1


async def test_a_report_that_unpacks_to_more_than_a_mebibyte_is_refused_unread(rig, lines):
    answer = await report(rig, events(b'{"error_type":"x"}', count=500_000))
    assert answer.status == 413
    assert not lines()


async def test_a_flood_of_reports_writes_no_more_lines_than_its_budget(rig, lines):
    for _ in range(10 * LINES_PER_SECOND):
        assert (await report(rig, events(b'{"error_type":"x"}', count=2))).status == 200
    assert len(lines()) == LINES_PER_SECOND
    await rig.clock.advance(1)
    await report(rig, events(b'{"error_type":"x"}', count=2))
    assert lines()[-1].lines_left_out == 9 * LINES_PER_SECOND


async def test_a_large_frame_is_unpacked_in_its_turn(rig, monkeypatch):
    unpacked = []
    take = LoopGate()

    async def admit(tenant_id):
        unpacked.append(rig.http.state.gateway.bodies.held)
        await take.admit(tenant_id)

    monkeypatch.setattr(
        rig.http.state.gateway, "body_admission", type("Gate", (), {"admit": staticmethod(admit)})
    )
    assert (await report(rig, events(b"{}", count=100_000))).status == 422
    (held_bytes,) = unpacked
    assert held_bytes < 2 * bodies.LARGE_JSON_BYTES
