"""Is a rollout record fit to train on? Checked in full before any of it reaches the model."""

import math
from collections.abc import Sequence

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.ids import Digest, WaveId
from mint_common.records import Group, Sample, WaveRecord
from services.trainer.core.algorithms.algorithm import ManagedAlgorithm
from services.trainer.core.batch import Batch
from services.trainer.core.refusals import RecordInvalid, WaveForeign


def check_origin(record: WaveRecord, *, wave_id: WaveId, revision: Digest | None) -> None:
    """Raise WaveForeign unless a record is of a wave, sampled at its revision."""
    if record.wave_id != wave_id:
        raise WaveForeign(problem=f"the record is of wave {record.wave_id}, the event of {wave_id}")
    if record.revision != revision:
        raise WaveForeign(problem=f"sampled at revision {record.revision}, requested at {revision}")


def validation_batch(algorithm: ManagedAlgorithm, record: WaveRecord, facts: BaseFacts) -> Batch:
    """Return an algorithm's validation batch. Raises RecordInvalid, also if nothing can be measured."""
    if algorithm.described.samples_rows:
        problem = f"{algorithm.described.name} is not validated by its loss"
        raise RecordInvalid(where="groups", problem=problem)
    check_record(record, facts, needs_logprobs=False)
    batch = algorithm.build_batch(record)
    if not batch.rows:
        raise RecordInvalid(where="groups", problem="there is nothing to measure")
    return batch


def check_record(
    record: WaveRecord, facts: BaseFacts, *, needs_logprobs: bool, needs_teacher: bool = False
) -> None:
    """Raise RecordInvalid, naming the first group and sample that is wrong."""
    temperature = record.logprobs_temperature
    if not (math.isfinite(temperature) and temperature > 0):
        problem = f"{temperature} is not a positive number"
        raise RecordInvalid(where="logprobs_temperature", problem=problem)
    if not any(group.samples for group in record.groups):
        raise RecordInvalid(where="groups", problem="there is no sample")
    for group_index, group in enumerate(record.groups):
        where = f"groups[{group_index}]"
        if not group.prompt_tokens or not group.samples:
            raise RecordInvalid(where=where, problem="a group needs a prompt token and a sample")
        _check_tokens(group.prompt_tokens, facts, where=f"{where}.prompt_tokens")
        _check_routes(group, facts, where=where)
        for sample_index, sample in enumerate(group.samples):
            here = f"{where}.samples[{sample_index}]"
            _check_sample(sample, facts, where=here)
            if needs_logprobs:
                _check_logprobs(sample.logprobs, sample, where=f"{here}.logprobs")
            if needs_teacher:
                _check_logprobs(sample.teacher, sample, where=f"{here}.teacher")
            length = len(group.prompt_tokens) + len(sample.tokens)
            if length > facts.max_context:
                problem = f"{length} tokens, the base reads {facts.max_context}"
                raise RecordInvalid(where=here, problem=problem)


def _check_sample(sample: Sample, facts: BaseFacts, *, where: str) -> None:
    _check_tokens(sample.tokens, facts, where=f"{where}.tokens")
    _check_trained(sample, where=f"{where}.trained")
    if not math.isfinite(sample.reward):
        raise RecordInvalid(where=f"{where}.reward", problem=f"{sample.reward} is not finite")


def _check_logprobs(logprobs: Sequence[float], sample: Sample, *, where: str) -> None:
    if len(logprobs) != len(sample.tokens):
        problem = f"{len(logprobs)} log-probabilities for {len(sample.tokens)} tokens"
        raise RecordInvalid(where=where, problem=problem)
    for logprob in logprobs:
        if not math.isfinite(logprob):
            raise RecordInvalid(where=where, problem=f"{logprob} is not finite")


def _check_trained(sample: Sample, *, where: str) -> None:
    """Check that ranges are in order, apart and within the tokens, none of them empty."""
    begin = 0
    for start, end in sample.trained:
        if not begin <= start < end <= len(sample.tokens):
            problem = f"[{start}, {end}) is not within [{begin}, {len(sample.tokens)})"
            raise RecordInvalid(where=where, problem=problem)
        begin = end


def _check_routes(group: Group, facts: BaseFacts, *, where: str) -> None:
    """Check that routes have a place for every token and layer; unknown experts are masked later."""
    layers = len(facts.experts)
    route_bytes = len(group.prompt_experts) // len(group.prompt_tokens)
    pieces = [(f"{where}.prompt_experts", group.prompt_experts, len(group.prompt_tokens))]
    for index, sample in enumerate(group.samples):
        pieces.append((f"{where}.samples[{index}].experts", sample.experts, max(0, len(sample.tokens) - 1)))
    for name, data, tokens in pieces:
        fits = len(data) == tokens * route_bytes and route_bytes % (2 * layers or 1) == 0
        if data and (not layers or not fits):
            problem = f"{len(data)} bytes for {tokens} tokens and {layers} routed layers"
            raise RecordInvalid(where=name, problem=problem)


def _check_tokens(tokens: tuple[int, ...], facts: BaseFacts, *, where: str) -> None:
    for token in (min(tokens, default=0), max(tokens, default=0)):
        if not 0 <= token < facts.vocab_size:
            raise RecordInvalid(where=where, problem=f"token {token} is outside 0..{facts.vocab_size - 1}")
