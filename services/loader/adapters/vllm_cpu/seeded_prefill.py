"""Seeded requests whose prompt takes several engine steps, on CPU.

A step that computes only a part of a prompt still samples a token and discards it; vLLM then rewinds
the request's generator by an offset, which a CPU generator does not have: "CPU Generator does not use
offset" ends the engine, with all requests. Here the generators of such requests return to the state
before the step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def keep_generators_of_partial_prefills() -> None:
    """Repair the model runner. Idempotent."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if GPUModelRunner._sample.__module__ == __name__:  # noqa: SLF001  # the seam is private
        return  # repaired already
    GPUModelRunner._sample = _sampling(GPUModelRunner._sample)  # noqa: SLF001
    GPUModelRunner._bookkeeping_sync = _bookkeeping(GPUModelRunner._bookkeeping_sync)  # noqa: SLF001


# Any: the model runner and its methods; vllm has no types.
def _sampling(stock: Any) -> Any:
    def sample(runner: Any, *args: Any, **options: Any) -> Any:
        states = {index: generator.get_state() for index, generator in _discarded(runner)}
        sampled = stock(runner, *args, **options)
        for index, state in states.items():
            runner.input_batch.generators[index].set_state(state)
        return sampled

    return sample


def _bookkeeping(stock: Any) -> Any:
    def bookkeep(runner: Any, *args: Any, **options: Any) -> Any:
        with _set_aside(runner):
            return stock(runner, *args, **options)

    return bookkeep


@contextmanager
def _set_aside(runner: Any) -> Iterator[None]:
    """Hide the generators that `_sampling` has wound back already."""
    generators = runner.input_batch.generators
    aside = dict(_discarded(runner))
    for index in aside:
        del generators[index]
    try:
        yield
    finally:
        generators.update(aside)


def _discarded(runner: Any) -> list[tuple[int, Any]]:
    batch = runner.input_batch
    mask = runner.discard_request_mask.np[: batch.num_reqs]
    return [
        (int(index), batch.generators[int(index)]) for index in mask.nonzero()[0] if index in batch.generators
    ]
