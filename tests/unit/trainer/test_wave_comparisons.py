"""The trainer's log-probabilities of a wave's samples: those of PEFT, each at its place in the record."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from mint_common.algorithms import BUILT_IN
from mint_common.events import LoraSpec
from mint_common.ids import WaveId
from mint_common.records import Sample, WaveRecord, decode_logprobs, encode_blob, trained_ranges
from mint_common.training import Passed, Result
from services.trainer.adapters.lora.tensors import new_lora
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.core.batch import Row
from services.trainer.core.wave_batch import WavePassed, wave_logprobs

from .managed import MANAGED
from .plain_peft import peft_twin, row_logprobs
from .test_lora import with_random_b

MakeModel = Callable[[], PreTrainedModel]
MakeBase = Callable[[PreTrainedModel], ResidentBase]
MakeRecord = Callable[..., WaveRecord]
SAMPLED = [one.name for one in BUILT_IN if one.gradient or one.name == "dpo"]
PLACES = st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 4)), st.binary(max_size=8))


def with_turns(record: WaveRecord) -> WaveRecord:
    """Return a record whose longer samples have a token between that was not sampled."""

    def turned(sample: Sample) -> Sample:
        count = len(sample.tokens)
        return replace(sample, trained=((0, 1), (2, count)) if count > 2 else ())

    groups = [replace(group, samples=tuple(map(turned, group.samples))) for group in record.groups]
    return replace(record, groups=tuple(groups))


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("skipped", [0, 3], ids=["trained", "without-signal"])
def test_a_pass_compares_each_sample_as_peft_does(
    make_model: MakeModel,
    make_base: MakeBase,
    lora: LoraSpec,
    make_record: MakeRecord,
    *,
    name: str,
    skipped: int,
) -> None:
    record = with_turns(make_record(groups=3, skipped=skipped))
    base = make_base(make_model())
    tensors = new_lora(base.facts, lora)
    with_random_b(tensors)
    algorithm = MANAGED.named(name)
    config = algorithm.training.config(0.1 if name == "dpo" else 0.0, "none")
    work = algorithm.wave_batch(algorithm.build_batch(record, pulls=False), config)
    (passed,) = run_policy_passes(base, [PolicyPass(lora=tensors, step=0, work=work)], max_tokens=24)
    assert isinstance(passed, WavePassed)
    rows = (*work.batch.rows, *work.batch.probe)
    assert set(passed.compared) == {row.place for row in rows}
    assert len(passed.compared) == len(rows)
    twin = peft_twin(make_model(), lora, tensors)
    for (group, index), found in passed.compared.items():
        owner = record.groups[group]
        sample = owner.samples[index]
        row = Row(prompt=owner.prompt_tokens, tokens=sample.tokens, logprobs=(), advantage=0.0)
        with torch.no_grad():
            every = row_logprobs(twin, row).tolist()
        picked = [
            one for start, end in trained_ranges(sample.tokens, sample.trained) for one in every[start:end]
        ]
        assert list(struct.unpack(f"<{len(picked)}f", found)) == pytest.approx(picked, abs=1e-4)


def test_what_a_file_holds_is_not_compared(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    record = make_record(samples=1)
    groups = [replace(one, samples=(replace(one.samples[0], logprobs=()),)) for one in record.groups]
    base, algorithm = make_base(make_model()), MANAGED.named("sft")
    batch = algorithm.build_batch(replace(record, groups=tuple(groups)))
    work = algorithm.wave_batch(batch, {}, is_file=True)
    given_pass = PolicyPass(lora=new_lora(base.facts, lora), step=0, work=work)
    (passed,) = run_policy_passes(base, [given_pass], max_tokens=24)
    assert isinstance(passed, WavePassed)
    assert not passed.compared


@given(st.lists(PLACES, max_size=4))
def test_the_first_pass_of_a_sample_holds_and_others_are_empty(
    passes: Sequence[Mapping[tuple[int, int], bytes]],
) -> None:
    found = wave_logprobs(WaveId("wave"), passes)
    first: dict[tuple[int, int], bytes] = {}
    for one in passes:
        for place, data in one.items():
            first.setdefault(place, data)
    if not first:
        assert found is None
        return
    assert found is not None
    assert decode_logprobs(encode_blob(found)) == found
    own = {(g, s): data for g, group in enumerate(found.groups) for s, data in enumerate(group)}
    assert {place: data for place, data in own.items() if data} == {p: d for p, d in first.items() if d}


def test_a_pass_is_committed_without_what_it_compared() -> None:
    passed = WavePassed(logprobs=(), metrics={"loss:mean": 1.0}, compared={(0, 0): b"1234"})
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(passed.committed()), type=Result)
    assert stored == Passed(logprobs=(), metrics={"loss:mean": 1.0})
