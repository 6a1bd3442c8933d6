"""What tables show, and what narrow terminals leave out."""

from services.standalone.core.tables import (
    ADAPTER,
    ENGINE,
    REVISION,
    adapter_rows,
    cells,
    engine_rows,
    fitting,
)

NOW = 1130.0
DIGEST = "sha256:" + "a" * 64
ADAPTER_ROW = {
    "engine_id": "e",
    "policy": "counter",
    "number": 3,
    "digest": DIGEST,
    "tier": "slot",
    "readiness": "ready",
    "size_bytes": 3 << 20,
    "pinned": True,
    "in_flight": 2,
    "last_used_at": 1000.0,
    "queue_position": None,
}
LOAD = {
    "requests": 5,
    "loads_waiting": 7,
    "loads_running": 2,
    "in_slots": 3,
    "in_host": 9,
    "host_bytes": 64 << 20,
    "host_bytes_capacity": 2 << 30,
}
ENGINE_ROW = {"engine_id": "e", "base": "tiny", "slots": 4, "host_capacity": 16, "load": LOAD}


def shown(adapter: dict[str, object]) -> dict[str, str]:
    """Return an adapter's cells by title."""
    (row,) = adapter_rows([adapter], now=NOW)
    return dict(zip((column.title for column in ADAPTER), cells(row, ADAPTER), strict=True))


def test_an_engine_shows_how_full_it_is() -> None:
    busy, silent = engine_rows([ENGINE_ROW, {**ENGINE_ROW, "load": None}])
    assert cells(busy, ENGINE) == ("e", "tiny", "5", "3/4", "9/16", "64/2048", "2", "7")
    assert cells(silent, ENGINE) == ("e", "tiny", *"??????")


def test_an_adapter_shows_its_state_its_use_and_its_position_in_the_queue() -> None:
    found = shown(ADAPTER_ROW)
    assert (found["revision"], found["last use"], found["MiB"]) == ("counter@3", "2 min ago", "3.0")
    assert (found["state"], found["pinned"], found["in use"]) == ("ready", "yes", "2")
    waiting = shown({**ADAPTER_ROW, "readiness": "registered", "queue_position": 0, "last_used_at": 0.0})
    assert (waiting["state"], waiting["last use"]) == ("queued (1.)", "")


def test_the_nearest_and_latest_used_come_first() -> None:
    stored, newer = {**ADAPTER_ROW, "tier": "stored"}, {**ADAPTER_ROW, "last_used_at": 1100.0}
    rows = adapter_rows([stored, ADAPTER_ROW, newer], now=NOW)
    assert [(row["tier"], row["last_used_at"]) for row in rows] == [
        ("slot", 1100.0),
        ("slot", 1000.0),
        ("stored", 1000.0),
    ]


def test_a_narrow_terminal_drops_columns_and_never_a_name() -> None:
    rows = adapter_rows([{**ADAPTER_ROW, "policy": "a-policy-of-some-length"}], now=NOW)
    wide, narrow = (fitting(ADAPTER, rows, width=width) for width in (200, 60))
    assert wide == ADAPTER
    assert [column.title for column in narrow][:3] == ["revision", "tier", "state"]
    assert "digest" not in [column.title for column in narrow]
    assert fitting(ADAPTER, rows, width=1)[0].title == "revision"


def test_what_is_not_there_is_an_empty_cell() -> None:
    assert cells({"number": 1}, REVISION)[:2] == ("1", "")
