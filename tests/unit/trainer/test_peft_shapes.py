"""Adapters as PEFT's own LoraConfig and save_pretrained make them: taken exactly, or refused with a sentence.

docs/reference/adapter-format.md has the same table.
"""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from mint_common.adapters_format import CONFIG_FILE, PACKED, WEIGHTS_FILE, read_base_facts
from mint_common.adapters_format.convert import write_adapter
from mint_common.adapters_format.origin import AdapterShape, read_origin
from mint_common.errors import AdapterInvalid

ROOT = Path(__file__).parents[3]
BASE = ROOT / "bases/tiny"
FACTS = read_base_facts(BASE)
PROMPT = torch.arange(3, 40).reshape(1, -1)
MAX_NATS = 1e-5
QV = ("q_proj", "v_proj")
Config = dict[str, Any]  # arguments of PEFT's configs

pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """An adapter, the policy's own shape if it has one, and the sentence of its refusal if it is refused."""

    name: str
    config: Config = field(default_factory=dict)
    method: Callable[..., peft.PeftConfig] = peft.LoraConfig
    policy: AdapterShape | None = None
    edit: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    converted: bool = False
    refused: str = ""


def lora(name: str, refused: str = "", **config: Any) -> Shape:
    return Shape(
        name=name, config={"r": 8, "lora_alpha": 16, "target_modules": list(QV), **config}, refused=refused
    )


def other(name: str, method: Callable[..., peft.PeftConfig], refused: str, **config: Any) -> Shape:
    return Shape(name=name, method=method, config=config, refused=refused)


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name.replace(old, new): value for name, value in tensors.items()}


PLAIN = lora("plain")
SHAPES = (
    lora("one rank, one alpha"),
    lora("alpha / r that is no power of two", lora_alpha=12),
    lora("use_rslora", use_rslora=True),
    lora("lora_dropout", lora_dropout=0.1),
    lora("target_modules: all-linear", target_modules="all-linear"),
    lora("target_modules: a regular expression", target_modules=r".*\.0\..*(q|up)_proj"),
    lora("target_modules: whole names", target_modules=["model.layers.1.self_attn.q_proj", "0.mlp.up_proj"]),
    lora("layers_to_transform", layers_to_transform=[1]),
    lora("layers_to_transform, layers_pattern", layers_to_transform=0, layers_pattern="layers"),
    lora("exclude_modules: names", exclude_modules=["model.layers.0.self_attn.v_proj"]),
    lora("exclude_modules: a regular expression", exclude_modules=r".*layers\.1\..*"),
    lora("rank_pattern", rank_pattern={"q_proj": 2, "layers.1.self_attn.v_proj": 4}),
    lora(
        "rank_pattern: regular expressions", rank_pattern={r"layers\.[01]\..*q_proj": 2, "^model.*v_proj": 4}
    ),
    lora("alpha_pattern", alpha_pattern={"q_proj": 4, r".*\.0\.self_attn\.v_proj": 24}),
    lora(
        "rank_pattern, alpha_pattern, use_rslora",
        rank_pattern={"q_proj": 4},
        alpha_pattern={"v_proj": 3},
        use_rslora=True,
    ),
    lora("init_lora_weights: gaussian", init_lora_weights="gaussian"),
    lora("init_lora_weights: orthogonal", init_lora_weights="orthogonal"),
    lora("init_lora_weights: false", init_lora_weights=False),
    Shape(
        name="init_lora_weights: pissa, converted",
        config={**PLAIN.config, "r": 4, "init_lora_weights": "pissa"},
        converted=True,
    ),
    Shape(
        name="init_lora_weights: olora, converted",
        config={**PLAIN.config, "r": 4, "init_lora_weights": "olora"},
        converted=True,
    ),
    Shape(
        name="init_lora_weights: pissa, rank_pattern, converted",
        config={**PLAIN.config, "r": 4, "rank_pattern": {"q_proj": 2}, "init_lora_weights": "pissa"},
        converted=True,
    ),
    Shape(name="a policy of a higher rank", config=PLAIN.config, policy=AdapterShape(rank=16, targets=QV)),
    Shape(
        name="a policy of more targets",
        config=PLAIN.config,
        policy=AdapterShape(rank=8, targets=("down_proj", *QV)),
    ),
    Shape(
        name="tensors without base_model.model.", config=PLAIN.config, edit=renamed("base_model.model.", "")
    ),
    Shape(
        name="tensors with the adapter's name",
        config=PLAIN.config,
        edit=renamed(".weight", ".default.weight"),
    ),
    Shape(
        name="bfloat16",
        config=PLAIN.config,
        edit=lambda tensors: {name: each.bfloat16() for name, each in tensors.items()},
    ),
    lora("use_dora", "use_dora scales each row", use_dora=True),
    lora("bias: lora_only", "bias is 'lora_only'", bias="lora_only"),
    lora("lora_bias", "lora_bias adds a bias to B", lora_bias=True),
    lora("modules_to_save", "modules_to_save has whole modules", modules_to_save=["lm_head"]),
    lora(
        "target_modules: embed_tokens",
        "target_modules has embed_tokens",
        target_modules=["q_proj", "embed_tokens"],
    ),
    lora("target_modules: lm_head", "target_modules has lm_head", target_modules=["q_proj", "lm_head"]),
    lora("trainable_token_indices", "trainable_token_indices changes", trainable_token_indices=[1, 2]),
    lora("init_lora_weights: pissa", "init_lora_weights is 'pissa'", init_lora_weights="pissa"),
    lora("init_lora_weights: olora", "init_lora_weights is 'olora'", init_lora_weights="olora"),
    lora(
        "alora_invocation_tokens", "alora_invocation_tokens turns the adapter on", alora_invocation_tokens=[5]
    ),
    lora("layer_replication", "layer_replication repeats layers", layer_replication=[(0, 2), (1, 2)]),
    other("LoHa", peft.LoHaConfig, "a Hadamard product", r=4, target_modules=list(QV)),
    other("LoKr", peft.LoKrConfig, "a Kronecker product", r=4, target_modules=list(QV)),
    other("IA3", peft.IA3Config, "IA3 scales activations", target_modules=list(QV), feedforward_modules=[]),
    other(
        "AdaLoRA",
        peft.AdaLoraConfig,
        "AdaLoRA multiplies A",
        init_r=4,
        total_step=10,
        target_modules=list(QV),
    ),
    other("VeRA", peft.VeraConfig, "VeRA scales random", r=4, target_modules=["q_proj"]),
    other("prompt tuning", peft.PromptTuningConfig, "trains tokens in front", num_virtual_tokens=4),
    other("prefix tuning", peft.PrefixTuningConfig, "trains tokens in front", num_virtual_tokens=4),
)


@cache
def loaded() -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    return model.eval()


def tiny() -> PreTrainedModel:
    return deepcopy(loaded())


def log_probabilities(model: torch.nn.Module) -> Tensor:
    """Compute in float64: float32 alone moves them by 1e-5 nats."""
    with torch.no_grad():
        return torch.log_softmax(deepcopy(model).double()(PROMPT).logits, dim=-1)


def train(model: torch.nn.Module) -> None:
    """Move what the adapter trains; the values are numbers of bfloat16, so that rounding loses nothing."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.copy_((parameter.data + torch.randn_like(parameter) * 0.02).bfloat16())


def save(shape: Shape, folder: Path) -> Tensor:
    """Save the adapter as PEFT does, and return what the model with it says."""
    torch.manual_seed(0)
    model = peft.get_peft_model(tiny(), shape.method(task_type="CAUSAL_LM", **shape.config)).eval()
    first = folder.with_name("first")
    if shape.converted:
        config = model.peft_config["default"]
        began, config.init_lora_weights = config.init_lora_weights, True
        model.save_pretrained(first)
        config.init_lora_weights = began
    train(model)
    said = log_probabilities(model)
    model.save_pretrained(
        folder, **({"path_initial_model_for_weight_conversion": str(first)} if shape.converted else {})
    )
    if shape.edit:
        save_file(shape.edit(load_file(folder / WEIGHTS_FILE)), folder / WEIGHTS_FILE)
    return said


def convert(shape: Shape, folder: Path) -> Path:
    origin = read_origin(FACTS, folder, shape=shape.policy)
    target = folder.with_name("converted")
    manifest = write_adapter(FACTS, origin, folder, target, layout=PACKED)
    if shape.policy:
        assert (manifest.rank, manifest.targets) == (shape.policy.rank, shape.policy.targets)
    return target


@pytest.mark.parametrize("shape", [each for each in SHAPES if not each.refused], ids=lambda each: each.name)
def test_the_converted_adapter_says_what_the_original_says(shape: Shape, tmp_path: Path) -> None:
    said = save(shape, tmp_path / "saved")
    converted = peft.PeftModel.from_pretrained(tiny(), convert(shape, tmp_path / "saved")).eval()
    nats = float((log_probabilities(converted) - said).abs().max())
    moved = float((log_probabilities(tiny()) - said).abs().max())
    print(f"{shape.name}: {nats:.1e} nats of {moved:.1e}")  # noqa: T201  # the table's figures, by pytest -rP
    assert nats <= MAX_NATS
    assert moved > 100 * MAX_NATS, "an adapter that changes nothing shows nothing"


@pytest.mark.parametrize("shape", [each for each in SHAPES if each.refused], ids=lambda each: each.name)
def test_what_is_no_plain_lora_is_refused_in_its_own_sentence(shape: Shape, tmp_path: Path) -> None:
    save(shape, tmp_path / "saved")
    with pytest.raises(AdapterInvalid, match=re.escape(shape.refused)):
        convert(shape, tmp_path / "saved")


def test_the_documentation_has_every_shape() -> None:
    text = (ROOT / "docs/reference/adapter-format.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| (taken|refused)[^|]*\|", text, flags=re.MULTILINE))
    assert {name.replace("`", ""): outcome for name, outcome in rows.items()} == {
        each.name: "refused" if each.refused else "taken" for each in SHAPES
    }


@pytest.mark.parametrize(
    ("change", "reason", "sentence"),
    [
        ({"rank_pattern": {"q_proj": 4}}, "wrong_rank", "has rank 8, the adapter 4"),
        ({"rank_pattern": {"q_proj": "4"}}, "unsupported_config", "rank_pattern is no map"),
        ({"alpha_pattern": {"(?=q)q_proj": 4}}, "unsupported_config", "without look-around"),
        (
            {"alpha_pattern": {"(a+)+" * 20: 4, "x" * 201 + "*": 1}},
            "unsupported_config",
            "202 characters",
        ),
        ({"alpha_pattern": {f"q.*{n}": 4 for n in range(17)}}, "unsupported_config", "the limit is 16"),
        ({"target_modules": [*QV, "k_proj"], "peft_type": "NEW"}, "other_method", "peft_type is 'NEW'"),
        ({"kasa_config": {"beta": 1}}, "unsupported_config", "takes a part out"),
        ({"use_new_thing": True}, "unsupported_config", "'use_new_thing' is set"),
    ],
)
def test_a_config_that_contradicts_its_tensors_or_cannot_be_read(
    change: Config, reason: str, sentence: str, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    save(PLAIN, folder)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | change))
    with pytest.raises(AdapterInvalid, match=sentence) as refused:
        read_origin(FACTS, folder)
    assert refused.value.reason == reason


def test_a_module_that_the_config_names_must_be_in_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    save(PLAIN, folder)
    tensors = load_file(folder / WEIGHTS_FILE)
    kept = {name: each for name, each in tensors.items() if "layers.1.self_attn.q_proj" not in name}
    save_file(kept, folder / WEIGHTS_FILE)
    with pytest.raises(AdapterInvalid, match="2 missing of"):
        read_origin(FACTS, folder)


def test_a_policy_that_is_smaller_refuses(tmp_path: Path) -> None:
    save(PLAIN, tmp_path / "saved")
    for policy, reason in (
        (AdapterShape(rank=4, targets=QV), "wrong_rank"),
        (AdapterShape(rank=8, targets=("q_proj",)), "wrong_targets"),
    ):
        with pytest.raises(AdapterInvalid) as refused:
            read_origin(FACTS, tmp_path / "saved", shape=policy)
        assert refused.value.reason == reason


def test_what_was_filled_up_is_said(tmp_path: Path) -> None:
    save(lora("both", rank_pattern={"q_proj": 2}, layers_to_transform=[1]), tmp_path / "saved")
    origin = read_origin(FACTS, tmp_path / "saved")
    assert len(origin.notes) == 2
    assert origin.scaling == 2.0
    assert np.isclose(max(part.factor for part in origin.parts.values()), 8.0)
