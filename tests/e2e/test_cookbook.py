"""tinker-cookbook's own `sl_loop` and `rl_loop`, unmodified, with a local tokenizer and local data."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients.environments import make_environment
from e2e.stack import RunningStack, start_stack
from sdk.matrix import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]

NEEDS = (
    *("tinker==0.38.0", "aiohttp", "anyio", "blobfile", "chz", "cloudpickle", "datasets", "pillow", "pyrage"),
    *("rich", "safetensors", "termcolor", "tiktoken", "torch", "tqdm", "transformers", "math-verify"),
    *("pylatexenc", "sympy"),
)
STEPS = 3


@pytest.fixture(scope="module")
def python() -> Path:
    """An environment with the cookbook, without the renderers of two hosted models."""
    return make_environment("tinker-cookbook-0.6.1", *NEEDS, bare=("tinker-cookbook==0.6.1",))


@pytest.fixture(scope="module")
def stack(stack_folder: Path) -> Iterator[RunningStack]:
    """A stack whose base has room for the recipes' prompts."""
    running = start_stack(stack_folder / "cookbook", base="smollm2")
    yield running
    running.stop()


@pytest.fixture
def hub(tmp_path: Path, stack: RunningStack) -> Path:
    """A folder that stands for the hub."""
    folder = tmp_path / "hub"
    (folder / "mint").mkdir(parents=True)
    (folder / "mint/smollm2").symlink_to(stack.folder / "bases/smollm2")
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"Say number {n}."},
                {"role": "assistant", "content": f"It is {n}."},
            ]
        }
        for n in range(32)
    ]
    sums = [
        {"question": f"What is {n} plus {n + 1}?", "answer": f"It is #### {2 * n + 1}"} for n in range(16)
    ]
    for name, rows in (("HuggingFaceH4/no_robots", chats), ("openai/gsm8k", sums)):
        (folder / name).mkdir(parents=True)
        (folder / name / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = "---\nconfigs:\n- config_name: main\n  data_files: train.jsonl\n---\n"
    (folder / "openai/gsm8k/README.md").write_text(card)
    return folder


def _run(
    python: Path, stack: RunningStack, hub: Path, recipe: str, **options: object
) -> list[dict[str, float]]:
    """Run a recipe and return its metrics, a row a step."""
    log_path = hub / "runs" / recipe
    chosen = {
        "base_url": f"http://127.0.0.1:{stack.port}",
        "model_name": "mint/smollm2",
        "lora_rank": 8,
        "log_path": log_path,
        **options,
    }
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MINT_", "TINKER_"))}
    done = subprocess.run(
        [
            str(python),
            str(ROOT / "examples/cookbook_offline.py"),
            str(hub),
            recipe,
            *(f"{name}={value}" for name, value in chosen.items()),
        ],
        env={
            **own,
            "TINKER_API_KEY": stack.api_key,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(hub / "cache"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in (log_path / "metrics.jsonl").read_text().splitlines()]


def test_sl_loop_learns_and_resumes(python: Path, stack: RunningStack, hub: Path):
    options = {"batch_size": 4, "learning_rate": 1e-3, "save_every": 2, "max_length": 256}
    metrics = _run(python, stack, hub, "sl_loop", max_steps=STEPS, **options)
    assert metrics[-1]["train_mean_nll"] < metrics[0]["train_mean_nll"]
    checkpoints = [
        json.loads(line) for line in (hub / "runs/sl_loop/checkpoints.jsonl").read_text().splitlines()
    ]
    assert checkpoints[-1]["sampler_path"].startswith("tinker://")
    assert checkpoints[-1]["state_path"].startswith("tinker://")


def test_rl_loop_samples_and_trains(python: Path, stack: RunningStack, hub: Path):
    metrics = _run(
        python,
        stack,
        hub,
        "rl_loop",
        max_steps=STEPS,
        batch_size=2,
        group_size=4,
        max_tokens=12,
        loss_fn="importance_sampling",
    )
    assert len(metrics) == STEPS
    assert all(0 < row["reward/total"] <= 1 for row in metrics)
    # Only a step that was taken has the optimizer's metrics.
    assert any("grad_norm:mean" in row for row in metrics)
