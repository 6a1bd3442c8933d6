"""An engine whose two workers are on two hosts answers as transformers, and ends when either host is gone."""

import json
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benches.machine import ROOT
from mint_common.adapters_format import WEIGHTS_FILE, BaseFacts
from tests.fleet.hosts import Hosts, hosts_of, why_not
from tests.fleet.part import FleetPart
from tests.fleet.spread_engine import DIED
from tests.integration.loader.moe_base import (
    Answer,
    load_base,
    logprobs_under,
    max_difference,
    merged,
    random_adapter,
)
from tools.make_moe_base import make_moe_base

_REASON = why_not()
pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
]
TOLERANCE = 1e-4
NOTICED_SECONDS = 20.0


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with hosts_of("first", "second") as found:
        yield found


def machines(hosts: Hosts, base: Path, folder: Path, **second: str) -> tuple[FleetPart, FleetPart]:
    """Return rank 0, with room for the adapters' folders as arguments, and the other machine."""
    unused = "192.0.2.1"
    common = {
        "MINT_POSTGRES_DSN": f"postgresql://mint@{unused}/mint",
        "MINT_NATS_URL": f"nats://{unused}:4222",
        "MINT_BLOBS_URL": f"file://{folder}/blobs",
        "MINT_INTERNAL_TOKEN": secrets.token_hex(24),
        "MINT_PEERS_REGISTRY_URL": f"http://{unused}:1",
        "PYTHONPATH": f"{ROOT}:{ROOT}/tests",
        "MINT_LOADER_HTTP_PORT": "8104",
        "MINT_LOADER_BASE_DIR": str(base),
        "MINT_LOADER_MAX_CONTEXT": "128",
        "MINT_LOADER_TENSOR_PARALLEL": "2",
        "MINT_LOADER_NODES": "2",
        "MINT_LOADER_LEADER": f"{hosts.addresses['first']}:29400",
    }
    first = FleetPart(
        name="first",
        hosts=hosts,
        argv=(sys.executable, "-m", "tests.fleet.spread_engine", str(folder / "answers.json")),
        env=common | {"MINT_LOADER_CACHE_DIR": str(folder / "first")},
        log=folder / "first.log",
    )
    own = {"MINT_LOADER_NODE_RANK": "1", "MINT_LOADER_CACHE_DIR": str(folder / "second")} | second
    argv = (sys.executable, "-m", "services.loader")
    return first, FleetPart(
        name="second", hosts=hosts, argv=argv, env=common | own, log=folder / "second.log"
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BaseFacts]:
    folder = tmp_path_factory.mktemp("moe") / "base"
    return folder, make_moe_base(folder, experts=8)


def wait_for_end(part: FleetPart, seconds: float) -> int:
    assert part._process is not None
    return part._process.wait(seconds)


@pytest.mark.parametrize("fault", ["kill the second", "kill the first", "cut the link"])
def test_two_hosts_serve_packed_and_dense_adapters_and_end_together(
    hosts: Hosts, base: tuple[Path, BaseFacts], tmp_path: Path, fault: str
) -> None:
    base_dir, facts = base
    packed = random_adapter(facts, tmp_path / "packed", seed=1)
    dense = random_adapter(facts, tmp_path / "dense", seed=2, routed=False)
    first, second = machines(hosts, base_dir, tmp_path)
    first.argv = [*first.argv, str(packed), str(dense)]
    try:
        for each in (first, second):
            each.start()
        answers = answers_of(tmp_path / "answers.json", first, second)
        models = [
            load_base(base_dir),
            *(merged(base_dir, facts, load_file(each / WEIGHTS_FILE)) for each in (packed, dense)),
        ]
        for model, one in zip(models, answers, strict=True):
            assert max_difference(logprobs_under(model, [one]), [one]) < TOLERANCE
        assert len({one.logprobs for one in answers}) == 3
        if fault == "kill the second":
            second.kill()
        elif fault == "kill the first":
            first.kill()
        else:
            hosts.cut("second")
        if fault != "kill the first":
            assert wait_for_end(first, NOTICED_SECONDS) == DIED
            assert "a node of the engine is gone" in first.log.read_text()
        if fault != "kill the second":
            assert wait_for_end(second, NOTICED_SECONDS) == 1
            assert "the leader of the engine is gone" in second.log.read_text()
    finally:
        for each in (first, second):
            each.kill()


def test_a_host_of_another_setup_is_refused_with_what_differs(
    hosts: Hosts, base: tuple[Path, BaseFacts], tmp_path: Path
) -> None:
    first, second = machines(hosts, base[0], tmp_path, MINT_LOADER_MAX_CONTEXT="64")
    try:
        for each in (first, second):
            each.start()
        assert wait_for_end(second, 60) == 1
        assert "refuses this node: max_context is 64, and 128 on the leader" in second.log.read_text()
        assert not first.has_ended()
    finally:
        for each in (first, second):
            each.kill()


def answers_of(file: Path, *parts: FleetPart) -> list[Answer]:
    until = time.monotonic() + 120
    while not file.exists():
        for part in parts:
            assert not part.has_ended(), part.log.read_text()
        assert time.monotonic() < until, parts[0].log.read_text()
        time.sleep(0.1)
    return [Answer(*map(tuple, one)) for one in json.loads(file.read_text())]
