"""What a trainer does by itself on a base that is not plain: sparse attention, experts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from mint_common.adapters_format import BASE_FILE, BaseFacts
from mint_common.client.trainer import TrainerClient
from mint_common.errors import InvalidField
from mint_common.events import RevisionExported, TrainingFailed
from mint_common.ids import PolicyId
from mint_common.records import WaveRecord
from mint_common.training import Open, Submission
from tests.unit.trainer.families import describe_family, everything

from .conftest import Stage
from .operating import TENANT, serving

pytestmark = pytest.mark.integration


def family(name: str, folder: Path) -> BaseFacts:
    """Write a family's base folder and return its facts."""
    facts = describe_family(name, folder)
    (folder / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    return facts


@pytest.mark.parametrize(
    ("name", "asked", "is_banded"),
    [
        ("DeepseekV32", "auto", True),
        ("DeepseekV32", "none", False),
        ("DeepseekV3", "auto", False),
        ("DeepseekV3", "band", True),
    ],
)
async def test_tokens_seen_too_differently_are_left_out_where_attention_is_sparse(
    name: str, asked: str, is_banded: bool, stage: Stage, tmp_path: Path
) -> None:
    facts = family(name, tmp_path / "base")
    async with stage.trainer(base_dir=tmp_path / "base", mismatch=asked):
        # The record's log-probabilities are drawn at random: some are out of the band.
        await stage.publish(await stage.wave(1, base=facts.name, lora=everything(facts)))
        (exported,) = await stage.exported(1)
    assert (exported.metrics.get("distrusted_tokens", 0) > 0) is is_banded
    assert ("distrusted_tokens" in exported.metrics) is is_banded


async def test_what_could_not_be_exported_as_asked_is_refused_before_it_is_trained(
    stage: Stage, tmp_path: Path
) -> None:
    facts = family("Qwen3Moe", tmp_path / "base")
    fits, wide = everything(facts, rank=8), everything(facts, rank=16)
    lacking = replace(fits, targets=("gate_proj", "up_proj"))
    async with (
        stage.trainer(base_dir=tmp_path / "base", export_layout="peft-3d") as trainer,
        serving(trainer) as client,
    ):
        for number, lora in enumerate((fits, wide, lacking)):
            await stage.publish(await stage.wave(1, policy=f"policy_{number}", base=facts.name, lora=lora))
        events = await stage.expect(3)
        await _refused(client, facts, wide, "lora.rank")
        await _refused(client, facts, lacking, "lora.targets")
    by_policy = {event.policy_id: event for event in events}
    assert isinstance(by_policy[PolicyId("policy_0")], RevisionExported)
    for number, field in ((1, "rank"), (2, "targets")):
        failed = by_policy[PolicyId(f"policy_{number}")]
        assert isinstance(failed, TrainingFailed)
        assert (failed.code, f"'{field}'" in failed.reason) == ("lora_invalid", True)


async def _refused(client: TrainerClient, facts: BaseFacts, lora: object, field: str) -> None:
    with pytest.raises(InvalidField, match=field):
        await client.submit(Submission(PolicyId("policy_x"), TENANT, 0, Open(base=facts.name, lora=lora)))


async def test_a_sampler_in_another_dtype_bounds_the_weights_of_its_tokens(stage: Stage) -> None:
    def sampled_in(dtype: str) -> Callable[[WaveRecord], WaveRecord]:
        return lambda record: replace(
            record, groups=tuple(replace(group, sampler_dtype=dtype) for group in record.groups)
        )

    async with stage.trainer(mismatch="auto", batch_policies=1):
        # The same record for each: its log-probabilities are drawn at random, and some weights exceed 2.
        for dtype in ("float32", "bfloat16", ""):
            policy = f"sampled_{dtype or 'unknown'}"
            await stage.publish(await stage.wave(1, policy=policy, record_seed=7, change=sampled_in(dtype)))
        exported = {event.policy_id: event for event in await stage.exported(3)}
    losses = {name.removeprefix("sampled_"): event.metrics["loss"] for name, event in exported.items()}
    assert losses["unknown"] == losses["float32"] != losses["bfloat16"]
