"""Losses and steps equal a bare loop over peft with the same adapter."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from tinker import types
from transformers import AutoModelForCausalLM

from tests.integration.tinker.conftest import BASE
from tests.integration.tinker.test_training import MODEL, datums

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
STEPS = 4
ADAM = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-12, "weight_decay": 0.01}


def exported_folder(stack, path: str):
    """Return the folder of a sampler checkpoint's revision."""
    policy = path.split("/")[2].replace(":", ".")
    with stack.api() as api:
        revision = api.get(f"{stack.url}/mint/v1/policies/{policy}/revisions").json()[-1]
    return stack.folder / "blobs" / revision["manifest"]["uri"].rpartition("/")[0]


def load_peft(folder) -> torch.nn.Module:
    torch.set_num_threads(1)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(folder), is_trainable=True)


def bare_losses(model: torch.nn.Module, data: list[types.Datum]) -> list[float]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, **ADAM)
    losses = []
    for _ in range(STEPS):
        loss = torch.zeros(())
        for datum in data:
            targets = torch.tensor(datum.loss_fn_inputs["target_tokens"].to_numpy())
            logits = model(torch.tensor([datum.model_input.to_ints()])).logits[0].float()
            loss = loss + torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        losses.append(float(loss))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def test_steps_equal_a_bare_loop(service, stack, tmp_path):
    data = datums(3, length=20)
    client = service.create_lora_training_client(base_model=MODEL, rank=4, seed=11)
    folder = exported_folder(stack, client.save_weights_for_sampler("start").result().path)
    losses = []
    for _ in range(STEPS):
        passed = client.forward_backward(data, "cross_entropy")
        adam = types.AdamParams(
            learning_rate=ADAM["lr"], eps=ADAM["eps"], weight_decay=ADAM["weight_decay"], grad_clip_norm=1.0
        )
        client.optim_step(adam)
        losses.append(passed.result().metrics["loss:sum"])
    # At the start B is 0, so a scale can be put back without touching a tensor.
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["lora_alpha"] = 32
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    bare = bare_losses(load_peft(tmp_path), data)
    np.testing.assert_allclose(losses, bare, rtol=2e-5)
    end = exported_folder(stack, client.save_weights_for_sampler("end").result().path)
    model = load_peft(end)
    after = client.forward(data, "cross_entropy").result().loss_fn_outputs
    for datum, output in zip(data, after, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([datum.model_input.to_ints()])).logits[0].float()
        targets = torch.tensor(datum.loss_fn_inputs["target_tokens"].to_numpy())
        expected = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0].numpy()
        np.testing.assert_allclose(output["logprobs"].to_numpy(), expected, atol=1e-4)
