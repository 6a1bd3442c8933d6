"""The wire format: what was ever published can be read, and nothing else gets through."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import EventInvalid
from mint_common.events import EVENT_TYPES, AdapterLoaded, Event, RevisionExported
from mint_common.events import codec as codec_module
from mint_common.events.codec import EventTooNew, decode, encode
from mint_common.events.subjects import subjects_of
from mint_common.ids import BaseName, TenantId
from tests.testing.factories import EXAMPLES

events = st.sampled_from(sorted(EXAMPLES)).map(EXAMPLES.__getitem__)
names = st.text(min_size=1, max_size=20)


@given(events, st.floats(allow_nan=False, allow_infinity=False), names)
def test_decoding_what_was_encoded_gives_an_equal_event(event: Event, now: float, cause: str) -> None:
    envelope, found = decode(encode(event, cause=cause, now=now))
    assert found == event
    assert (envelope.id, envelope.type, envelope.cause, envelope.time) == (event.id, event.type, cause, now)


def test_bottomless_nesting_is_an_invalid_event() -> None:
    for wire in (
        b"[" * 100_000,
        b'{"id":"","type":"","version":1,"cause":"","time":1,"data":' + b"[" * 100_000,
    ):
        with pytest.raises(EventInvalid):
            decode(wire)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_an_invalid_event(data: bytes) -> None:
    with pytest.raises(EventInvalid):
        decode(data)


@given(events, st.data())
def test_a_damaged_event_is_invalid_or_whole(event: Event, data: st.DataObject) -> None:
    wire = bytearray(encode(event, cause="c", now=1.0))
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        _, found = decode(bytes(wire))
    except EventInvalid:
        return
    assert type(found) in EVENT_TYPES


@given(events, st.data())
def test_a_field_less_is_invalid(event: Event, data: st.DataObject) -> None:
    wire = json.loads(encode(event, cause="c", now=1.0))
    known = dataclasses.fields(event)
    required = [each.name for each in known if each.default is dataclasses.MISSING]
    wire["data"].pop(data.draw(st.sampled_from(required)))
    with pytest.raises(EventInvalid, match=event.type):
        decode(json.dumps(wire).encode())


@pytest.mark.parametrize("changed", [{"version": 2}, {"version": 99}, {"type": "alias.painted"}])
def test_what_only_a_newer_sender_knows_is_too_new(changed: dict[str, Any]) -> None:
    wire = json.loads(encode(EXAMPLES["alias.moved"], cause="c", now=1.0)) | changed
    with pytest.raises(EventTooNew):
        decode(json.dumps(wire).encode())


@pytest.mark.parametrize("version", [0, -1])
def test_an_unknown_version_is_invalid(version: int) -> None:
    wire = json.loads(encode(EXAMPLES["alias.moved"], cause="c", now=1.0)) | {"version": version}
    with pytest.raises(EventInvalid, match="no upcaster"):
        decode(json.dumps(wire).encode())


def test_a_number_that_json_cannot_hold_is_refused_at_the_sender() -> None:
    event = EXAMPLES["revision.exported"]
    assert isinstance(event, RevisionExported)
    with pytest.raises(EventInvalid, match="revision"):
        encode(replace(event, metrics={"loss": float("nan")}), cause="c", now=1.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Renamed(Event):
    """`adapter.loaded`, twice revised."""

    type: ClassVar[str] = "adapter.loaded"
    version: ClassVar[int] = 3
    key: ClassVar[tuple[str, ...]] = ("where",)

    where: str
    seconds: float


def _rename_engine(data: dict[str, Any]) -> dict[str, Any]:
    return {"tenant_id": data["tenant_id"], "base": data["base"], "where": data["engine_id"]}


def _add_seconds(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "seconds": 0.5}


def test_an_old_version_is_lifted_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codec_module._TYPES, "adapter.loaded", _Renamed)
    old = EXAMPLES["adapter.loaded"]
    assert isinstance(old, AdapterLoaded)
    wire = encode(old, cause="c", now=1.0)
    upcasters = {("adapter.loaded", 1): _rename_engine, ("adapter.loaded", 2): _add_seconds}
    monkeypatch.setattr(codec_module, "UPCASTERS", upcasters)

    envelope, event = decode(wire)

    assert envelope.version == 1
    assert event == _Renamed(tenant_id=old.tenant_id, base=old.base, where=old.engine_id, seconds=0.5)


def test_a_score_of_before_has_no_standard_error() -> None:
    wire = json.loads(encode(EXAMPLES["evaluation.recorded"], cause="c", now=1.0))
    del wire["data"]["stderr"]
    wire["version"] = 1
    assert decode(json.dumps(wire).encode())[1] == replace(EXAMPLES["evaluation.recorded"], stderr=None)


def test_a_gap_between_versions_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codec_module._TYPES, "adapter.loaded", _Renamed)
    wire = encode(EXAMPLES["adapter.loaded"], cause="c", now=1.0)
    monkeypatch.setattr(codec_module, "UPCASTERS", {("adapter.loaded", 1): _rename_engine})
    with pytest.raises(EventInvalid, match="no upcaster"):
        decode(wire)


def test_an_old_version_without_a_field_that_the_upcaster_needs_is_invalid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(codec_module._TYPES, "adapter.loaded", _Renamed)
    wire = json.loads(encode(EXAMPLES["adapter.loaded"], cause="c", now=1.0))
    del wire["data"]["engine_id"]
    upcasters = {("adapter.loaded", 1): _rename_engine, ("adapter.loaded", 2): _add_seconds}
    monkeypatch.setattr(codec_module, "UPCASTERS", upcasters)
    with pytest.raises(EventInvalid, match="engine_id"):
        decode(json.dumps(wire).encode())


@given(events, names, names)
def test_an_id_depends_on_the_key_alone(event: Event, tenant: str, base: str) -> None:
    moved = replace(event, tenant_id=TenantId(tenant), base=BaseName(base))
    assert moved.id == event.id
    for name in event.key:
        value = getattr(event, name)
        other = value + 1 if isinstance(value, int) else value + "x"
        assert replace(event, **{name: other}).id != event.id


@given(events, names, names)
def test_any_name_is_one_token_of_the_subject(event: Event, tenant: str, base: str) -> None:
    named = replace(event, tenant_id=TenantId(tenant), base=BaseName(base))
    assert named.subject.count(".") == 4
    assert not set(named.subject) & set("*> \t\r\n")
    assert named.subject == subjects_of(type(event), tenant=tenant, base=base)


def test_names_that_differ_have_subjects_that_differ() -> None:
    event = EXAMPLES["alias.moved"]
    subjects = {replace(event, base=BaseName(name)).subject for name in ("a.b", "a_b", "a%2Eb", "ab", "A.b")}
    assert len(subjects) == 5


def test_a_filter_takes_every_name_unless_told_otherwise() -> None:
    assert subjects_of(AdapterLoaded) == "mint.adapter.loaded.*.*"
    assert subjects_of(AdapterLoaded, base="tiny") == "mint.adapter.loaded.*.tiny"


def test_events_are_read_without_loading_numpy() -> None:
    code = "import sys, mint_common.events.codec; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
