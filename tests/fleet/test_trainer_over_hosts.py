"""A trainer of two ranks on two hosts, which torchrun starts, goes on when either host is lost for a while.

The hosts' supervisor is the stack, which starts again what ended by itself.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.hosts import why_not
from tests.fleet.stack import FleetStack, open_fleet
from tests.fleet.users import check_revisions, on_client, submit_job, wait_for_step

_REASON = why_not(("haproxy", "haproxy"))
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
]
TWINS = ("registry-1", "rollout-1", "loader-1", "gateway-1", "trainer-1", "trainer-2")
STEPS, STEPS_BEFORE, FAULT_SECONDS = 8, 2, 20.0


@pytest.fixture(scope="module")
def fleet(server_folder: Path) -> Iterator[FleetStack]:
    server_folder.chmod(0o711)  # Postgres and NATS have users of their own
    folder = server_folder / "spread-trainer"
    folder.mkdir(mode=0o711)
    with open_fleet(folder, twins=TWINS, is_trainer_spread=True) as stack:
        yield stack


@pytest.mark.parametrize(
    ("host", "fault"), [("trainer-2", "kill"), ("trainer-1", "kill"), ("trainer-2", "cut")]
)
def test_a_job_goes_on_when_a_host_of_its_trainer_is_lost(fleet: FleetStack, host: str, fault: str) -> None:
    policy = f"{host}-{fault}"
    job_id = on_client(fleet, lambda gateways: submit_job(gateways, policy, STEPS))
    job = on_client(fleet, lambda gateways: wait_for_step(fleet, gateways, job_id, STEPS_BEFORE))
    assert job["state"] == "running", job["reason"]
    (trainer,) = on_client(fleet, lambda gateways: gateways.ask("GET", "/mint/v1/trainers"))
    assert len(trainer["policies"])
    fleet.inflict(host, fault, FAULT_SECONDS)
    job = on_client(fleet, lambda gateways: wait_for_step(fleet, gateways, job_id, STEPS + 1))
    assert job["state"] == "succeeded", job["reason"]
    assert len(job["steps"]) == STEPS
    on_client(fleet, lambda gateways: check_revisions(gateways, policy, job))
