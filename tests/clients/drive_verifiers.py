"""Run in an environment with verifiers 0.4: both clients, unmodified, over one taskset.

``python drive_verifiers.py eval|train BASE_URL MODEL RENDERER TEMPERATURE SEED``, the key in MINT_API_KEY.
Prints each trace as a line of JSON.
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import verifiers.v1 as vf  # beside the taskset

kind, base_url, model, renderer, temperature, seed = sys.argv[1:7]
CONFIG = vf.SingleAgentEnvConfig.model_validate(
    {
        "taskset": {"id": "counting_taskset"},
        "agent": {"harness": {"id": "null"}, "runtime": {"type": "subprocess"}},
    }
)


def client() -> object:
    given = {"base_url": base_url, "api_key_var": "MINT_API_KEY"}
    if kind == "eval":
        return vf.EvalClientConfig(**given)
    return vf.TrainClientConfig(**given, renderer_model_name=renderer)


async def main() -> None:
    sampling = vf.SamplingConfig(max_tokens=8, temperature=float(temperature), seed=int(seed))
    environment = vf.load_environment(CONFIG)
    async with environment.serving():
        for task in environment.taskset:
            context = vf.ModelContext(client=client(), model=model, sampling=sampling)
            (slot,) = environment.slots(task)
            episode = await environment.run_slot(slot, context)
            for trace in episode.traces:
                told = {
                    "errors": [str(error) for error in (*episode.errors, *trace.errors)],
                    "reward": trace.reward,
                    "nodes": [
                        {
                            "sampled": node.sampled,
                            "token_ids": list(node.token_ids),
                            "mask": list(node.mask),
                            "logprobs": list(node.logprobs or ()),
                        }
                        for node in trace.nodes
                    ],
                }
                sys.stdout.write(json.dumps(told) + "\n")


asyncio.run(main())
