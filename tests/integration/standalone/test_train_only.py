"""A base that transformers trains and vLLM does not serve: added with `--train-only`, trained, pulled."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tinker
from e2e.stack import RunningStack, mint, start_stack
from openai import OpenAI

from tests.families import save_tiny

pytestmark = [pytest.mark.integration, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]
ROWS = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]}
    for n in range(16)
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("train-only")
    source, state = save_tiny(folder / "deep", "deepseek_v32"), folder / "state"
    refused = mint("base", "add", source, "--name", "deep", "--dir", state, seconds=400)
    assert refused.returncode == 1
    assert "`--train-only` adds it without an engine" in refused.stderr
    added = mint("base", "add", source, "--name", "deep", "--train-only", "--dir", state, seconds=400)
    assert added.returncode == 0, added.stderr
    running = start_stack(state, base="deep")
    yield running
    running.stop()


def test_it_has_no_engine_and_its_probe_says_why(stack: RunningStack) -> None:
    assert "trainer-deep" in stack.parts()
    assert not [name for name in stack.parts() if name.startswith("loader")]
    base = stack.get("/bases/deep")
    assert base["trained_only"]
    assert {line["part"]: line["status"] for line in base["probe"]["lines"]}["engine"] == "failed"


def test_a_supervised_job_trains_it_and_its_revision_is_pulled(stack: RunningStack, tmp_path: Path) -> None:
    client = OpenAI(base_url=f"{stack.http.base_url}/v1", api_key=stack.api_key)
    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    file = client.files.create(file=("rows.jsonl", data), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="deep", training_file=file.id, suffix="sft")
    while job.status not in {"succeeded", "failed", "cancelled"}:
        time.sleep(0.5)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job
    env = {"MINT_URL": str(stack.http.base_url), "MINT_API_KEY": stack.api_key, "PATH": "/usr/bin:/bin"}
    policy = str(job.fine_tuned_model).partition("@")[0]
    pulled = mint("revision", "download", policy, "1", "--out", tmp_path / "adapter", env=env)
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()
    asked = stack.http.post("/v1/completions", json={"model": str(job.fine_tuned_model), "prompt": "1?"})
    assert (asked.status_code, "only trained" in asked.text) == (400, True)


@pytest.mark.usefixtures("tinker_warnings")
def test_tinker_trains_it_and_does_not_sample(stack: RunningStack) -> None:
    service = tinker.ServiceClient(base_url=str(stack.http.base_url), api_key=stack.api_key)
    training = service.create_lora_training_client(base_model="deep", rank=4).result()
    tokens = list(range(5, 25))
    datum = tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
    )
    losses = []
    for _ in range(2):
        losses.append(training.forward_backward([datum], "cross_entropy").result().metrics["loss:sum"])
        training.optim_step(tinker.AdamParams(learning_rate=1e-2)).result()
    assert losses[1] < losses[0]
    sampler = service.create_sampling_client(base_model="deep").result()
    prompt, params = tinker.ModelInput.from_ints(tokens), tinker.SamplingParams(max_tokens=2)
    with pytest.raises(tinker.APIStatusError, match="only trained"):
        sampler.sample(prompt=prompt, num_samples=1, sampling_params=params).result()
    service.close("success").result(timeout=60)
