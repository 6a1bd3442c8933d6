"""Stored events stay readable: one golden file per type and version, and a page that describes them."""

import subprocess
import sys
from pathlib import Path

import pytest

from mint_common.events import EVENT_TYPES, Event
from mint_common.events.codec import decode, encode
from tests.testing.factories import EXAMPLES

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden" / "events"

every_type = pytest.mark.parametrize("event_type", EVENT_TYPES, ids=lambda event_type: event_type.type)


@every_type
def test_every_version_of_a_type_has_a_golden_file(event_type: type[Event]) -> None:
    for version in range(1, event_type.version + 1):
        assert (GOLDEN / f"{event_type.type}.v{version}.json").exists()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.name)
def test_every_golden_file_is_readable(path: Path) -> None:
    envelope, event = decode(path.read_bytes())
    assert path.name == f"{envelope.type}.v{envelope.version}.json"
    assert event.type == envelope.type


@every_type
def test_the_current_golden_file_is_the_example_byte_for_byte(event_type: type[Event]) -> None:
    golden = (GOLDEN / f"{event_type.type}.v{event_type.version}.json").read_bytes()
    envelope, event = decode(golden)
    assert event == EXAMPLES[event_type.type]
    assert event.id == envelope.id
    assert encode(event, cause=envelope.cause, now=envelope.time) == golden


def test_the_events_page_is_current() -> None:
    tool = [sys.executable, "tools/make_events_doc.py", "--check"]
    assert subprocess.run(tool, cwd=ROOT, check=False).returncode == 0
