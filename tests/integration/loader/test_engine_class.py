"""What the installed vLLM says of its classes, before an engine of one starts."""

import pytest

from services.loader.adapters.probing.answering import no_lora

pytestmark = pytest.mark.integration


@pytest.mark.filterwarnings("ignore")  # of what vLLM imports
def test_a_class_without_lora_is_named_and_others_are_not() -> None:
    assert "serves GPT2LMHeadModel without LoRA" in no_lora("GPT2LMHeadModel")
    assert "serves KimiLinearForCausalLM without LoRA" in no_lora("KimiLinearForCausalLM")
    for served in ("Qwen3ForCausalLM", "SmolLM3ForCausalLM", "NewForCausalLM"):
        assert no_lora(served) == ""
