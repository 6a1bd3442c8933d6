"""SmolLM2 with an adapter in its weights, in both dtypes, out of the process that makes the tar."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from mint_common.adapters_format import BASE_FILE, build_adapter, peft_name
from mint_common.ids import PolicyId
from services.standalone.adapters.base_description import describe_base
from services.standalone.adapters.base_import import Wish, import_smollm2

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]
MAX_BYTES = 150e6
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02}
"""Of the largest logit: what rounding a merged weight once leads to."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[torch.dtype, Path]:
    folder = tmp_path_factory.mktemp("bases")
    wish = Wish(target=folder / "smollm2", name="smollm2", max_rank=16, report=lambda _: None)
    import_smollm2(wish)
    half = folder / "smollm2-half"
    shutil.copytree(folder / "smollm2", half, ignore=shutil.ignore_patterns("*.safetensors", BASE_FILE))
    AutoModelForCausalLM.from_pretrained(folder / "smollm2", dtype=torch.bfloat16).save_pretrained(half)
    facts = describe_base(half, name="smollm2-half", max_rank=16)
    (half / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    return {torch.float32: folder / "smollm2", torch.bfloat16: half}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_model_computes_what_base_and_adapter_do_together(bases, dtype, tmp_path) -> None:
    base = bases[dtype]
    facts = describe_base(base, name=base.name, max_rank=16)
    random, tensors = np.random.default_rng(0), {}
    for module, (width, height) in facts.modules.items():
        tensors[peft_name(module, "A")] = random.normal(0, 0.05, (16, width)).astype(np.float32)
        tensors[peft_name(module, "B")] = random.normal(0, 0.05, (height, 16)).astype(np.float32)
    files = build_adapter(facts=facts, policy_id=PolicyId("p"), step=1, parent=None, rank=16, tensors=tensors)
    (adapter := tmp_path / "adapter").mkdir()
    for name, data in files.files.items():
        (adapter / name).write_bytes(data)

    command = [sys.executable, "-I", "-m", "mint_common.adapters_format.merged_tar", base, adapter, "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        told = msgspec.json.decode(process.stdout.readline())
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            for member in tar:
                tar.extract(member, tmp_path / "merged", filter="data")
                if member.name.endswith(".safetensors"):
                    memory = psutil.Process(process.pid).memory_info()
                    assert memory.rss - memory.shared < MAX_BYTES
    assert told["error"] is None

    text = "The parcel has not come, and nobody at the office knows where it is."
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "merged")(text).input_ids])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype is dtype
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        before = plain(ids).logits
        theirs = PeftModel.from_pretrained(plain, adapter)(ids).logits
    largest = theirs.abs().max()
    assert (ours - theirs).abs().max() < TOLERANCE[dtype] * largest
    assert (ours - before).abs().max() > 0.1 * largest
