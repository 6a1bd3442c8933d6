"""Gives every part of a stack as much to hold as its settings allow; run by test_plan_memory.py.

Arguments: address, key, base, ids to use, policies, adapters, tokens of a datum.
"""

import sys
from typing import Any

import tinker
from tinker import types

RANK, COMPLETIONS, PROMPT = 16, 16, 200


def work(url: str, key: str, base: str, *, ids: int, policies: int, adapters: int, tokens: int) -> None:
    """Train policies of the largest rank, with full micro-batches; export them, and sample every export."""
    service = tinker.ServiceClient(base_url=url, api_key=key)
    read = [(7 * place) % ids for place in range(tokens + 1)]
    targets = types.TensorData(data=read[1:], dtype="int64", shape=[tokens])
    datum = types.Datum(
        model_input=types.ModelInput.from_ints(read[:-1]), loss_fn_inputs={"target_tokens": targets}
    )
    runs: list[Any] = [
        service.create_lora_training_client(base, rank=RANK, seed=seed).result() for seed in range(policies)
    ]
    samplers: list[Any] = []
    while len(samplers) < adapters:
        passes = [run.forward_backward([datum], "cross_entropy") for run in runs]
        steps = [run.optim_step(types.AdamParams(learning_rate=1e-4)) for run in runs]
        for future in (*passes, *steps):
            future.result()
        samplers += [run.save_weights_and_get_sampling_client().result() for run in runs]
    params = types.SamplingParams(max_tokens=24, temperature=1.0)
    prompt = types.ModelInput.from_ints(read[:PROMPT])
    sampled = [one.sample(prompt, num_samples=COMPLETIONS, sampling_params=params) for one in samplers]
    for future in sampled:
        future.result()


if __name__ == "__main__":
    address, api_key, name, *numbers = sys.argv[1:]
    vocabulary, count, staged, length = map(int, numbers)
    work(address, api_key, name, ids=vocabulary, policies=count, adapters=staged, tokens=length)
