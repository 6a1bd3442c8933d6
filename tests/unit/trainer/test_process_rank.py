"""Which rank a process is, from its settings and torchrun's variables; what cannot take effect is refused."""

from pathlib import Path

import pytest

from mint_common.errors import SettingInvalid
from mint_common.settings import read_settings
from services.trainer.core.ranks import ALONE, ProcessRank, own_range, share_out
from services.trainer.settings import TrainerSettings, read_process_rank

LEAST = {
    "MINT_NATS_URL": "nats://127.0.0.1:4222",
    "MINT_POSTGRES_DSN": "postgresql://mint@127.0.0.1/mint",
    "MINT_BLOBS_URL": "file:///tmp/blobs",
    "MINT_PEERS_REGISTRY_URL": "http://127.0.0.1:7001",
    "MINT_INTERNAL_TOKEN": "secret",
    "MINT_TRAINER_HTTP_PORT": "7002",
    "MINT_TRAINER_BASE_DIR": str(Path("bases") / "tiny"),
}


def process(**changes: str) -> ProcessRank:
    environ = {**LEAST, **changes}
    return read_process_rank(environ, read_settings(TrainerSettings, environ, service="trainer"))


def test_a_trainer_is_alone_unless_told() -> None:
    assert process() == ALONE
    assert process(RANK="0", WORLD_SIZE="1") == ALONE


def test_rank_0_starts_the_others_unless_torchrun_has() -> None:
    assert process(MINT_TRAINER_RANKS="2", MINT_TRAINER_SHARDING="fsdp") == ProcessRank(count=2)
    started = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MINT_TRAINER_SHARDING": "zero3"}
    assert process(**started) == ProcessRank(rank=5, count=8, local=1, launched=True)
    assert process(**started, MINT_TRAINER_RANKS="8") == ProcessRank(rank=5, count=8, local=1, launched=True)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"MINT_TRAINER_RANKS": "2"}, "MINT_TRAINER_SHARDING: 2 ranks need one of data, fsdp, zero3"),
        ({"MINT_TRAINER_SHARDING": "fsdp"}, "MINT_TRAINER_SHARDING: fsdp takes no effect on one rank"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MINT_TRAINER_SHARDING: 2 ranks need"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MINT_TRAINER_RANKS": "4", "MINT_TRAINER_SHARDING": "fsdp"},
            "MINT_TRAINER_RANKS: 4, but 2 ranks were started",
        ),
        ({"MINT_TRAINER_SHARDING": "ddp"}, "MINT_TRAINER_SHARDING"),
    ],
)
def test_what_cannot_take_effect_is_refused(changes: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingInvalid, match=problem):
        process(**changes)


@pytest.mark.parametrize("count", range(9))
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_things_are_shared_out_in_order_and_evenly(count: int, ranks: int) -> None:
    shares = share_out(range(count), ranks=ranks)
    assert [thing for share in shares for thing in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [own_range(count, rank=rank, ranks=ranks) for rank in range(ranks)] == shares
