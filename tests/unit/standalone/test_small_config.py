"""A config is made small without what decides how its layers compute."""

from services.standalone.core.small_config import narrowed, shortened

GROUPED = {
    "model_type": "gemma3_text",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 34,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "pad_token_id": 262000,
    "sliding_window": 1024,
    "layer_types": ["sliding_attention"] * 33 + ["full_attention"],
    "final_logit_softcapping": 30.0,
    "quantization_config": {"quant_method": "fp8"},
}


def test_layers_windows_and_vocabulary_are_few_and_scales_stay() -> None:
    short = shortened(GROUPED, layers=6)
    assert short["num_hidden_layers"] == len(short["layer_types"]) == 6
    assert (short["sliding_window"], short["vocab_size"], short["pad_token_id"]) == (16, 512, 0)
    assert short["final_logit_softcapping"] == 30.0
    assert "quantization_config" not in short


def test_heads_are_fewer_as_wide_and_still_grouped() -> None:
    narrow = narrowed(GROUPED)
    assert (narrow["num_attention_heads"], narrow["num_key_value_heads"], narrow["head_dim"]) == (4, 2, 256)
    assert (narrow["hidden_size"], narrow["intermediate_size"]) == (512, 512)


def test_a_head_without_a_width_of_its_own_keeps_it() -> None:
    narrow = narrowed({"hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4})
    assert narrow["hidden_size"] // narrow["num_attention_heads"] == 128


def test_some_experts_are_not_picked() -> None:
    narrow = narrowed({"hidden_size": 7168, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_group": 8})
    assert (narrow["n_routed_experts"], narrow["num_experts_per_tok"], narrow["n_group"]) == (8, 2, 2)


def test_the_text_within_a_model_that_sees_images_is_made_small() -> None:
    tower = {"depth": 27, "out_hidden_size": 2560}
    small = narrowed(shortened({"text_config": GROUPED, "vision_config": tower}, layers=2))
    assert small["text_config"]["hidden_size"] == small["vision_config"]["out_hidden_size"] == 512
    assert small["vision_config"]["depth"] == 1
