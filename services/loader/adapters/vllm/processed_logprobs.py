# ruff: noqa: N803, N806  (shape suffixes: N = rows of a step, V = vocabulary)
"""Log-probabilities at the sampling temperature, for requests that ask.

vLLM's ``logprobs_mode`` is per engine: raw ones describe the model, processed ones the sampled distribution.
A trainer that compares ratios at another temperature than 1 needs the latter. Such a request has temperature
1 for vLLM, and its own one in its ``extra_args``: its rows of the logits are divided by it before vLLM's
sampler sees them, so that the raw log-probabilities are those at the temperature and the same tokens are
drawn. Other requests of the step keep their bits; a step without such a request costs one check per request.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

TEMPERATURE = "mint_temperature"
"""Key in ``SamplingParams.extra_args`` of the temperature that a request's logits are divided by."""

_OWN = "mint_temperatures"


def divide_logits() -> None:
    """Extend vLLM's two model runners. Idempotent."""
    from vllm.v1.worker.gpu.sample.sampler import Sampler
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    first = GPUModelRunner._sample  # noqa: SLF001  # where logits are, after the grammar of structured outputs
    if first.__module__ != __name__:
        GPUModelRunner._sample = _dividing_first(first)  # noqa: SLF001
    if Sampler.__call__.__module__ != __name__:
        Sampler.add_request = _noting(Sampler.add_request)
        Sampler.__call__ = _dividing_second(Sampler.__call__)


# Any: model runners, samplers, logits and what they pass on; vllm has no types.
def _dividing_first(stock: Any) -> Any:
    def _sample(runner: Any, logits_NV: Any, *args: Any, **options: Any) -> Any:
        temperatures = np.ones(0, np.float32)
        if logits_NV is not None:
            asked = [runner.requests[name].sampling_params for name in runner.input_batch.req_ids]
            temperatures = np.array([temperature_of(params) for params in asked], np.float32)
        if (temperatures != 1.0).any():
            logits_NV = _divided(logits_NV, temperatures)
        return stock(runner, logits_NV, *args, **options)

    return _sample


def _noting(stock: Any) -> Any:
    def add_request(sampler: Any, req_idx: int, sampling_params: Any) -> Any:
        own = vars(sampler).setdefault(_OWN, np.ones(len(sampler.needs_logits_processing), np.float32))
        own[req_idx] = temperature_of(sampling_params)
        return stock(sampler, req_idx, sampling_params)

    return add_request


def _dividing_second(stock: Any) -> Any:
    def __call__(sampler: Any, logits_NV: Any, input_batch: Any) -> Any:  # noqa: N807  # as vLLM's
        own = vars(sampler).get(_OWN)
        if own is not None and (own[input_batch.idx_mapping_np] != 1.0).any():
            # One logit row a request: drafts of speculative decoding are refused such requests.
            logits_NV = _divided(logits_NV, own[input_batch.idx_mapping_np])
        return stock(sampler, logits_NV, input_batch)

    return __call__


def temperature_of(params: Any) -> float:
    """Return the divisor of a request's logits, 1.0 by default."""
    options = getattr(params, "extra_args", None)
    return float(options[TEMPERATURE]) if options and TEMPERATURE in options else 1.0


def _divided(logits_NV: Any, temperatures: npt.NDArray[np.float32]) -> Any:
    """Return the logits in float32, divided in place if they are already: no later code reads them."""
    import torch
    from vllm.utils.torch_utils import async_tensor_h2d

    # Pinned: a copy from pageable memory waits for all that the device does.
    own = async_tensor_h2d(temperatures, device=logits_NV.device)
    return logits_NV.to(torch.float32).div_(own[:, None])
