"""A short part of `test_faults`: registry and gateways over hosts, without a model.

Users move and read an alias through two gateways while a part is killed, frozen or cut off. One order of its
moves explains every answer, and users are answered within seconds.
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from mint_common.adapters_format import CONFIG_FILE, WEIGHTS_FILE
from mint_common.client.http import INTERNAL_TOKEN_HEADER
from tests.fleet.hosts import why_not
from tests.fleet.stack import FleetStack, open_fleet
from tests.fleet.users import Gateways, check_history, on_client, stream_leader, users_at_work
from tests.testing.adapters import make_adapter, make_base_facts, tar_of

_REASON = why_not(("nft", "nftables"), ("haproxy", "haproxy"))
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
]
TWINS = ("registry-1", "registry-2", "gateway-1", "gateway-2")
SEED, FAULT_SECONDS, GAP_SECONDS = 32, 4.0, 15.0
CELLS = [
    ("registry", "kill"),
    ("registry", "cut"),
    ("registry", "cut-nats"),
    ("registry", "cut-postgres"),
    ("gateway", "freeze"),
    ("nats", "kill"),
    ("postgres", "kill"),
]


@pytest.fixture(scope="module")
def fleet(server_folder: Path) -> Iterator[FleetStack]:
    server_folder.chmod(0o711)  # Postgres and NATS have users of their own
    folder = server_folder / "catalog-fleet"
    folder.mkdir(mode=0o711)
    with open_fleet(folder, twins=TWINS) as stack:
        on_client(stack, lambda gateways: make_revisions(stack, gateways))
        yield stack


def make_revisions(stack: FleetStack, gateways: Gateways) -> None:
    """Register a base, as its trainer does, and upload two adapters to a policy."""
    facts, registry = make_base_facts(), stack.parts["registry-1"]
    headers = {INTERNAL_TOKEN_HEADER: registry.env["MINT_INTERNAL_TOKEN"]}
    url = f"{registry.url}/internal/bases/{facts.name}"
    httpx.put(url, json=msgspec.to_builtins(facts), headers=headers, trust_env=False).raise_for_status()
    gateways.ask("POST", "/mint/v1/policies", {"name": "asked", "base": facts.name, "lora": {"rank": 2}})
    for step in (1, 2):
        files = make_adapter(facts, step=step, seed=step).files
        gateways.upload("asked", tar_of({name: files[name] for name in (CONFIG_FILE, WEIGHTS_FILE)}))


def victim_of(stack: FleetStack, part: str, fault: str) -> str:
    """Return the host to suffer: Postgres', the stream leader's, or one of two."""
    if part == "postgres":
        return part
    if part == "nats":
        return stream_leader(stack)
    return f"{part}-{random.Random(f'{SEED} {part} {fault}').choice((1, 2))}"


@pytest.mark.parametrize(("part", "fault"), CELLS)
def test_a_fault_of_a_part_loses_and_doubles_no_move(fleet: FleetStack, part: str, fault: str) -> None:
    alias, victim = f"{part}-{fault}", victim_of(fleet, part, fault)
    with users_at_work(fleet, "asked", alias, {}) as seen:
        fleet.wait_for(lambda: len(seen.heard) > 10, what="answers before")
        fleet.inflict(victim, fault, FAULT_SECONDS)
        before = len(seen.heard)
        fleet.wait_for(lambda: len(seen.heard) > before + 10, what="answers after")
    on_client(fleet, lambda gateways: check_history(gateways, "asked", alias, seen))
    ended = sorted(one.ended for one in seen.heard if one.sequence is not None)
    gap = max(after - before for before, after in itertools.pairwise(ended))
    print(f"{victim} {fault}: longest gap {gap:.2f} s, {len(ended)} answers")
    assert gap < GAP_SECONDS
