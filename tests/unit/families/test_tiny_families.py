"""The tiny models of the families are unlike the tame defaults of transformers' configs."""

import json
from pathlib import Path

import pytest
import torch

from tests.families import FAMILIES, WINDOW, make_tiny, save_tiny


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_no_weight_is_constant_and_windows_are_short(name: str) -> None:
    model = make_tiny(name)
    assert [
        key for key, weight in model.named_parameters() if weight.dim() and weight.min() == weight.max()
    ] == []
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    assert len(kinds) != 1 or kinds <= {"full_attention", "indexed_attention"}
    assert (getattr(config, "sliding_window", None) or WINDOW) == WINDOW
    torch.manual_seed(1)
    with torch.no_grad():
        logits = model(input_ids=torch.randint(3, 259, (1, 40))).logits
    assert logits.isfinite().all()
    assert logits.std() > 0.05


def test_a_folder_has_weights_in_its_dtype_and_a_tokenizer(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "qwen3_5_images")
    config = json.loads((folder / "config.json").read_bytes())
    assert (config["architectures"], config["dtype"]) == (["Qwen3_5ForConditionalGeneration"], "bfloat16")
    assert (folder / "tokenizer.json").is_file()
