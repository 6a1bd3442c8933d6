"""How big a micro-batch is where nobody has said it: memory of big bases stays bounded, small ones run on."""

from mint_common.adapters_format.base_facts import BaseFacts, ExpertsFacts
from mint_common.ids import BaseName, Digest
from services.trainer.core.microbatches import FEWEST_TOKENS, MAX_TOKENS, default_microbatch_tokens


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


def test_a_small_base_takes_the_most_and_a_big_one_the_fewest() -> None:
    assert default_microbatch_tokens(_facts(64)) == MAX_TOKENS
    assert default_microbatch_tokens(_facts(32768)) == FEWEST_TOKENS


def test_between_them_activations_have_the_same_size() -> None:
    narrow, wide = default_microbatch_tokens(_facts(4096)), default_microbatch_tokens(_facts(8192))
    assert FEWEST_TOKENS < wide < narrow < MAX_TOKENS
    assert narrow == 2 * wide == (256 << 20) // (4 * 4 * 2 * 4096)


def test_experts_count() -> None:
    assert default_microbatch_tokens(_facts(4096, experts=4)) < default_microbatch_tokens(_facts(4096))
