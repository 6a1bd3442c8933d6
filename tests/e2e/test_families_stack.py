"""Each family through a whole stack: a GRPO job with a gradient and Tinker steps, trainer beside engine.

`MINT_GOLDEN=write` writes what was measured, of which `tools/make_docs.py` makes columns of
docs/reference/families.md.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker
from e2e.stack import RunningStack, mint, start_stack
from tinker import types

from tests.families import FAMILIES, save_tiny
from tests.goldens import WRITES

GOLDEN = Path(__file__).parents[1] / "golden"
MEASURED = GOLDEN / "families_stack"
TAKEN = [
    name for name in FAMILIES if not json.loads((GOLDEN / f"families/{name}.json").read_text())["refused"]
]
TOGETHER = 3
"""Maximum bases of one stack: each has a trainer and an engine of its own, a gigabyte each."""
STEPS, ROWS_PER_STEP = 3, 4
LIMITS = {"float32": 2e-3, "bfloat16": 1.0}
"""Maximum difference of one token, in nats and as a ratio. In bfloat16 roundings choose other experts."""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("tinker_warnings"),
]

GRADER = {
    "type": "python",
    "name": "early letters",
    "source": "def grade(sample, item):\n"
    "    text = sample['output_text']\n"
    "    return sum(each < 'n' for each in text) / max(1, len(text))\n",
}
"""Random weights answer with some early letters, and some answers have more: each group has a gradient."""
PROMPT = [20 + 3 * at for at in range(40)]
"""Longer than every window of the tiny models."""


class Stacks:
    """One stack at a time, with the families of the next tests."""

    def __init__(self, folder: Path, wanted: Sequence[str]) -> None:
        self._folder, self._wanted = folder, wanted
        self._served: Sequence[str] = ()
        self._stack: RunningStack | None = None

    def serving(self, name: str) -> RunningStack:
        """Return a running stack that has a family's base."""
        if self._stack is None or name not in self._served:
            self.stop()
            first = self._wanted.index(name)
            self._served = self._wanted[first : first + TOGETHER]
            place = self._folder / name
            for each in self._served:
                add(save_tiny(self._folder / "sources" / each, each), base_of(each), place)
            self._stack = start_stack(place, bases=[base_of(each) for each in self._served])
        return self._stack

    def stop(self) -> None:
        if self._stack is not None:
            self._stack.stop()
            self._stack = None


def base_of(name: str) -> str:
    return name.replace("_", "-")


def add(source: Path, base: str, place: Path) -> None:
    """Add a base without the probe, which tests/integration/standalone/test_probe.py runs."""
    done = mint("base", "add", source, "--name", base, "--dir", place, "--max-rank", 8, "--no-probe")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def stacks(request: pytest.FixtureRequest, stack_folder: Path) -> Iterator[Stacks]:
    own = [item for item in request.session.items if item.path == request.path]
    made = Stacks(stack_folder / "families", [item.callspec.params["name"] for item in own])
    yield made
    made.stop()


@pytest.mark.parametrize("name", TAKEN)
def test_a_family_trains_and_its_engine_has_the_trainers_numbers(name: str, stacks: Stacks) -> None:
    stack, limit = stacks.serving(name), LIMITS[FAMILIES[name].dtype]
    steps = reinforced(stack, base_of(name))
    ratio_error = max(step["ratio_max_error"] for step in steps)
    losses, nats = tuned(stack, base_of(name))
    found = {
        "rewards": [round(step["reward_mean"], 3) for step in steps],
        "ratio error": f"{ratio_error:.0e}",
        "losses": losses,
        "nats": f"{nats:.0e}",
    }
    if WRITES:
        MEASURED.mkdir(exist_ok=True)
        (MEASURED / f"{name}.json").write_text(json.dumps(found) + "\n")
    assert [step["revision"] is not None for step in steps] == [True] * STEPS, "a step had no gradient"
    assert all(0 < step["reward_mean"] < 1 for step in steps), found
    assert losses == sorted(losses, reverse=True)
    assert max(ratio_error, nats) < limit, found


def reinforced(stack: RunningStack, base: str) -> list[Any]:
    """Return the steps of a GRPO job."""
    rows = [
        {"messages": [{"role": "user", "content": f"Begin with {at}."}]}
        for at in range(STEPS * ROWS_PER_STEP)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    uploaded = stack.http.post(
        "/v1/files", files={"file": ("rows.jsonl", lines)}, data={"purpose": "fine-tune"}
    )
    settings = {"n_epochs": 1, "batch_size": ROWS_PER_STEP}
    body = {
        "model": base,
        "training_file": uploaded.json()["id"],
        "seed": 3,
        "method": {
            "type": "reinforcement",
            "reinforcement": {"grader": GRADER, "hyperparameters": settings},
        },
        "mint": {"learning_rate": 0.01, "max_new_tokens": 24, "rank": 8},
    }
    asked = stack.http.post("/v1/fine_tuning/jobs", json=body)
    assert asked.status_code == 200, asked.text
    job = stack.wait_for_end(asked.json()["mint"]["job_id"])
    assert job["state"] == "succeeded", job
    assert len(job["steps"]) == STEPS
    return list(job["steps"])


def tuned(stack: RunningStack, base: str) -> tuple[list[float], float]:
    """Return the losses of Tinker steps, and the largest difference of sampler and trainer after them."""
    service = tinker.ServiceClient(base_url=f"http://127.0.0.1:{stack.port}", api_key=stack.api_key)
    client = service.create_lora_training_client(f"mint/{base}", rank=8, seed=1).result()
    losses = []
    for _ in range(STEPS):
        passed = client.forward_backward([datum(PROMPT)], "cross_entropy")
        client.optim_step(types.AdamParams(learning_rate=5e-3)).result(timeout=120)
        losses.append(round(passed.result(timeout=120).metrics["loss:sum"], 3))
    sampler = client.save_weights_and_get_sampling_client()
    sampling = types.SamplingParams(max_tokens=24, temperature=1.0, seed=1)
    given = sampler.sample(types.ModelInput.from_ints(PROMPT), 1, sampling).result(timeout=120).sequences[0]
    passed = client.forward([datum([*PROMPT, *given.tokens])], "cross_entropy").result(timeout=120)
    found = passed.loss_fn_outputs[0]["logprobs"].to_numpy()[len(PROMPT) - 1 :]
    service.close("success").result(timeout=60)
    return losses, float(np.abs(found - np.array(given.logprobs)).max())


def datum(tokens: Sequence[int]) -> types.Datum:
    count = len(tokens) - 1
    targets = types.TensorData(data=[*tokens[1:]], dtype="int64", shape=[count])
    weights = types.TensorData(data=[1.0] * count, dtype="float32", shape=[count])
    return types.Datum(
        model_input=types.ModelInput.from_ints([*tokens[:-1]]),
        loss_fn_inputs={"target_tokens": targets, "weights": weights},
    )
