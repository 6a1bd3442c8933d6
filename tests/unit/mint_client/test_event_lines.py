"""Which events pass a filter, and how one reads in a line."""

import pytest

from mint_client.commands.events import EventFilter, check_types, event_line
from mint_common.errors import NotFound

MOVED = {
    "type": "alias.moved",
    "time": 3600.0,
    "data": {"policy_id": "pol_a", "alias": "prod", "reason": "best", "revision": {"number": 7}},
}
FINISHED = {
    "type": "job.finished",
    "time": 3661.0,
    "data": {"policy_id": "pol_b", "job_id": "job_b", "outcome": "succeeded", "reason": ""},
}


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (EventFilter(), (True, True)),
        (EventFilter(types=("alias.moved",)), (True, False)),
        (EventFilter(types=("job", "alias.moved")), (True, True)),
        (EventFilter(policy_id="pol_b"), (False, True)),
        (EventFilter(job_id="job_b"), (False, True)),
        (EventFilter(types=("alias",), policy_id="pol_b"), (False, False)),
    ],
)
def test_a_filter_lets_pass_what_is_wanted(wanted: EventFilter, passes: tuple[bool, bool]) -> None:
    assert (wanted.wants(MOVED), wanted.wants(FINISHED)) == passes


def test_an_event_is_a_line() -> None:
    names = {"pol_a": "counter", "pol_b": "copier"}.__getitem__
    told = "  ".join(event_line(MOVED, names).split())
    assert told == "01:00:00  alias.moved  counter@7  alias  prod  reason  best"
    assert event_line(FINISHED, names).endswith("copier  outcome succeeded  job_id job_b")


def test_a_mistyped_type_is_refused_with_near_names() -> None:
    check_types(["job", "job.finished"])
    with pytest.raises(NotFound, match="There is: job"):
        check_types(["job.finishd"])
