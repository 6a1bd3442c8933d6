"""What does it cost to look at every step for numbers that are not finite? The same engine with and without.

vLLM alone, without LoRA, in this process: a step has the least to do there, so that the look is the largest
part of it that it can be.
"""

import os
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from benches.bases import TINY
from benches.report import Report, make_row

SEQUENCES, PROMPT, TOKENS, PAIRS = 32, 12, 16, 60
KV_BYTES = 64 << 20
VOCABULARY = range(3, 250)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "",
}


def run() -> Report:
    """Measure in pairs; who goes first takes turns."""
    os.environ.update(ENVIRONMENT)
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from services.loader.adapters.vllm.repairs.non_finite import keep_blocks_finite

    generate = _open()
    plain = GPUModelRunner.sample_tokens
    keep_blocks_finite()
    ways = {"without": plain, "with": GPUModelRunner.sample_tokens}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-2, PAIRS):
        for name in sorted(ways, reverse=bool(number % 2)):
            GPUModelRunner.sample_tokens = ways[name]
            took = generate(number)
            if number >= 0:  # the first ones warm up
                seconds[name].append(took)
    ratios = [mine / bare for mine, bare in zip(seconds["with"], seconds["without"], strict=True)]
    row = make_row(
        "guard_step_ratio",
        ratios,
        unit="ratio",
        goal=1.01,
        better="lower",
        limit=1.0,
        how=f"processor time of {SEQUENCES} sequences of {PROMPT} + {TOKENS} tokens at once, tiny base, with "
        f"the look at each step's hidden states over without: median of {PAIRS} pairs; without it they take "
        f"{1000 * statistics.median(seconds['without']):.1f} ms",
    )

    def draw(figure: Any) -> None:  # Any: matplotlib is untyped
        axes = figure.subplots()
        axes.boxplot([[1000 * one for one in seconds[name]] for name in ways], tick_labels=list(ways))
        axes.set(title=f"{SEQUENCES} sequences of {TOKENS} tokens", ylabel="ms of the processor")

    return Report(bench="loader_guard", rows=[row], draw=draw)


def _open() -> Callable[[int], float]:
    """Start the engine; return what generates from it, and tells the processor's seconds."""
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(
        model=str(TINY),
        dtype="float32",
        max_model_len=128,
        max_num_seqs=SEQUENCES,
        enforce_eager=True,
        kv_cache_memory_bytes=KV_BYTES,
        seed=0,
    )
    sampling = SamplingParams(max_tokens=TOKENS, temperature=1.0, ignore_eos=True, detokenize=False)

    def generate(seed: int) -> float:
        rng = random.Random(seed)
        prompts = [TokensPrompt(prompt_token_ids=rng.choices(VOCABULARY, k=PROMPT)) for _ in range(SEQUENCES)]
        began = time.process_time()
        llm.generate(prompts, sampling, use_tqdm=False)
        return time.process_time() - began

    return generate
