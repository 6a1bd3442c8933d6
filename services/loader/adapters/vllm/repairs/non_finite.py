# ruff: noqa: N806  (shape suffixes: T = tokens of the step, D = model width)
"""Numbers that are not finite stay with the request that computed them, and end it.

vLLM's attention on CPU multiplies values after a sequence's end in its last block by zero, and zero times
NaN is NaN: a value that is not finite, once in a freed block, reaches the block's next user. Here every
step ends with a check of the model's last hidden states. A request with a row that is not finite ends in
that step, before it samples; its blocks are made finite and leave the prefix cache before any other request
can use them. The cost is one sum per step, not one per layer (docs/adr/0017 compares the ways).

Why that is enough. A token attends to itself, so that a value that is not finite makes its attention output,
and from there every later state of its row, not finite; so do a query or a key, unless its score is minus
infinity. Keys and finite values after the end have no part in the result, whatever their size. The final
norm bounds a finite state, so the logits are finite if it is. A request that shares a block with one that
ends in the step that wrote it reads the same values, and ends too. With several ranks all see the same
states, and each cleans its own cache.

Written against vLLM 0.32; tests/integration/loader/test_vllm_plugin.py shows its kernel's unrepaired
behaviour.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

NON_FINITE = "non_finite_output"
"""The ``stop_reason`` of a request that is ended."""
_CLEANED = "mint_cleaned_blocks"
"""Attribute of a model runner's output with the blocks that were made finite."""


def keep_blocks_finite() -> None:
    """Repair the model runner, so that a step leaves only finite values in the KV cache. Idempotent."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if GPUModelRunner.sample_tokens.__module__ != __name__:
        GPUModelRunner.sample_tokens = _checking(GPUModelRunner.sample_tokens)


def end_reported() -> None:
    """Let the scheduler end the requests that a step reports. Idempotent."""
    from vllm.v1.core.sched.scheduler import Scheduler

    if Scheduler.update_from_output.__module__ != __name__:
        Scheduler.update_from_output = _ending(Scheduler.update_from_output)


def zero_new_blocks() -> None:
    """Let vLLM clear every block of the KV cache when it gives it out, by its own means. Idempotent.

    Where other kernels than the CPU's attend: some have the same fault, and none was tried here.
    """
    from vllm.v1.kv_cache_interface import KVCacheConfig

    KVCacheConfig.needs_kv_cache_zeroing = property(lambda _: True)


# Any: the model runner, the scheduler and what they pass on; vllm has no types.
def _checking(stock: Any) -> Any:
    def sample_tokens(runner: Any, *args: Any, **options: Any) -> Any:
        state = runner.execute_model_state
        found, cleaned = _take_out(runner, state) if state is not None else ({}, set())
        output = stock(runner, *args, **options)
        if found:
            output.num_nans_in_logits = found
            setattr(output, _CLEANED, cleaned)
        return output

    return sample_tokens


def _take_out(runner: Any, state: Any) -> tuple[Mapping[str, int], set[int]]:
    """Find the requests with rows that are not finite, and make their blocks finite.

    Returns the number of rows of each, and the blocks. What the requests sample after it is meaningless but
    harmless for the sampler.
    """
    hidden_TD = state.hidden_states[: state.scheduler_output.total_num_scheduled_tokens]
    if math.isfinite(hidden_TD.sum()):
        return {}, set()
    bad_T = hidden_TD.isfinite().all(-1).logical_not()
    batch, starts = runner.input_batch, runner.query_start_loc.np
    found: dict[str, int] = {}
    cleaned: set[int] = set()
    for index, name in enumerate(batch.req_ids):
        rows = slice(int(starts[index]), int(starts[index + 1]))
        if count := int(bad_T[rows].sum()):
            found[name] = count
            cleaned |= _clean_blocks(runner, index, rows)
            hidden_TD[rows] = 0
            if state.logits is not None:
                state.logits[index] = 0
    return found, cleaned


def _clean_blocks(runner: Any, index: int, rows: slice) -> set[int]:
    """Make the blocks finite that these rows of a request have written to, or its states; return them."""
    layers = runner.compilation_config.static_forward_context
    cleaned: set[int] = set()
    for groups, table in zip(runner.attn_groups, runner.input_batch.block_table.block_tables, strict=True):
        slots_T = table.slot_mapping.gpu[rows]  # the other copy is not always written
        own = table.block_table.cpu[index, : table.num_blocks_per_row[index]].long()
        for name in (name for group in groups for name in group.layer_names):
            cache = layers[name].kv_cache
            # A layer with a recurrent state has several tensors, each with a state a block.
            is_state = not hasattr(cache, "shape")
            blocks = own if is_state else (slots_T // cache.shape[-2]).unique()
            for part in cache if is_state else (cache,):
                part[blocks] = part[blocks].nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            cleaned.update(blocks.tolist())
    return cleaned


def _ending(stock: Any) -> Any:
    def update_from_output(scheduler: Any, step: Any, output: Any) -> Any:
        from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs

        reported = [name for name, count in (output.num_nans_in_logits or {}).items() if count]
        ended = _end(scheduler, reported, cleaned=getattr(output, _CLEANED, ())) if reported else []
        outputs = stock(scheduler, step, output)
        for request in ended:
            own = EngineCoreOutput(
                request_id=request.request_id,
                new_token_ids=[],
                finish_reason=request.get_finished_reason(),
                stop_reason=NON_FINITE,
                events=request.take_events(),
                trace_headers=request.trace_headers,
            )
            outputs.setdefault(request.client_index, EngineCoreOutputs()).outputs.append(own)
        return outputs

    return update_from_output


def _end(scheduler: Any, names: Sequence[str], *, cleaned: Collection[int]) -> Sequence[Any]:
    """Free the requests' blocks and remove them from the prefix cache.

    One whose client has left meanwhile is free already, and only the runner knows its blocks.
    """
    from vllm.v1.request import RequestStatus

    manager, blocks = scheduler.kv_cache_manager, set(cleaned)
    for name in names:
        if name in scheduler.requests:
            blocks.update(block for group in manager.get_block_ids(name) for block in group)
    manager.evict_blocks(blocks)
    ended: Sequence[Any] = scheduler.finish_requests(names, RequestStatus.FINISHED_ERROR)
    return ended
