"""What `mint top` and `mint adapters` show."""

from dataclasses import replace

from services.standalone.core.tables import (
    ADAPTER_COLUMNS,
    ENGINE_COLUMNS,
    AdapterNow,
    Busy,
    EngineNow,
    adapter_cells,
    engine_cells,
    nearest_first,
)

ADAPTER = AdapterNow(
    engine_id="e",
    policy="counter",
    number=3,
    digest="sha256:" + "a" * 64,
    tier="slot",
    readiness="ready",
    size_bytes=3 << 20,
    pinned=True,
    in_flight=2,
    last_used_at=1000.0,
)
BUSY = Busy(
    requests=5,
    loads_waiting=7,
    loads_running=2,
    in_slots=3,
    in_host=9,
    host_bytes=64 << 20,
    host_bytes_capacity=2 << 30,
)
ENGINE = EngineNow(engine_id="e", base="tiny", slots=4, host_capacity=16, load=BUSY)


def test_an_engine_shows_how_full_it_is() -> None:
    assert engine_cells(ENGINE) == ("e", "tiny", "5", "3/4", "9/16", "64/2048", "2", "7")
    assert len(engine_cells(replace(ENGINE, load=None))) == len(ENGINE_COLUMNS)


def test_an_adapter_shows_its_state_its_use_and_its_place_in_the_queue() -> None:
    cells = dict(zip(ADAPTER_COLUMNS, adapter_cells(ADAPTER, now=1130.0), strict=True))
    assert cells["revision"] == "counter@3"
    assert cells["last use"] == "2 min ago"
    assert (cells["state"], cells["pinned"], cells["in use"]) == ("ready", "yes", "2")
    waiting = replace(ADAPTER, readiness="registered", queue_position=0, last_used_at=0.0)
    cells = dict(zip(ADAPTER_COLUMNS, adapter_cells(waiting, now=1130.0), strict=True))
    assert (cells["state"], cells["last use"]) == ("queued (1.)", "")


def test_the_nearest_and_latest_used_come_first() -> None:
    stored = replace(ADAPTER, tier="stored", last_used_at=9000.0)
    older, newer = ADAPTER, replace(ADAPTER, last_used_at=2000.0)
    assert nearest_first([stored, older, newer]) == [newer, older, stored]
