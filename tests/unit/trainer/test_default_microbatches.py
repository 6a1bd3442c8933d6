"""How big a micro-batch is where nobody has said it: memory of big bases stays bounded, small ones run on."""

from mint_common.adapters_format.base_facts import BaseFacts, ExpertsFacts
from mint_common.ids import BaseName, Digest
from services.trainer.core.microbatches import FEWEST_TOKENS, MAX_TOKENS, fitting_tokens, token_numbers


def _facts(width: int, *, experts: int = 0) -> BaseFacts:
    routed = ExpertsFacts(count=experts, projections={"up_proj": (width, width)})
    return BaseFacts(
        name=BaseName("base"),
        digest=Digest("sha256:" + "0" * 64),
        architecture="LlamaForCausalLM",
        vocab_size=1000,
        max_context=2048,
        targets=("q_proj",),
        modules={f"model.layers.{layer}.self_attn.q_proj": (width, width) for layer in range(4)},
        max_rank=8,
        experts={"model.layers.0.mlp.experts": routed} if experts else {},
    )


def _tokens(width: int, *, experts: int = 0, picked: int = 1, item: int = 4, recomputed: bool = False) -> int:
    numbers = token_numbers(_facts(width, experts=experts), layers=4, width=width, picked=picked)
    return fitting_tokens(numbers.kept_bytes(item, recomputed=recomputed))


def test_a_small_base_takes_the_most_and_a_big_one_the_fewest() -> None:
    assert _tokens(64) == MAX_TOKENS
    assert _tokens(32768) == FEWEST_TOKENS


def test_between_them_activations_have_the_same_size() -> None:
    narrow, wide = _tokens(4096), _tokens(8192)
    assert FEWEST_TOKENS < wide < narrow < MAX_TOKENS
    assert narrow == 2 * wide == (256 << 20) // (4 * 4 * 2 * 4096)


def test_the_experts_of_a_token_count_and_no_others() -> None:
    assert _tokens(4096, experts=4) < _tokens(4096)
    assert (
        _tokens(4096, experts=4, picked=2) == _tokens(4096, experts=64, picked=2) < _tokens(4096, experts=4)
    )


def test_what_is_recomputed_takes_no_room_and_a_narrow_base_stores_its_inputs_twice() -> None:
    assert _tokens(8192, recomputed=True) > _tokens(8192)
    assert _tokens(4096, item=2) == _tokens(4096)
