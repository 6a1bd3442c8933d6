"""Patches that vLLM needs only on a CPU: no engine process on GPUs imports this package.

- `bare_rows`: rows without an adapter get nothing, not the last slot's adapter.
- `moe_backend`: layers of experts with LoRA run in torch, not in Triton, which has no CPU backend.
- `moe_experts`: that implementation, which vLLM lacks.
- `grouped_lora`: one LoRA product per adapter of a step, not one per token: faster, not different.
- `seeded_prefill`: a seeded request whose prompt takes several steps no longer ends the engine.
- `one_token`: a prompt of one token no longer ends the engine of a base with gated delta nets.
- `rotary_heads`: each token of a model with latent attention is rotated by its own position.

`adapters/vllm_plugin.py` applies them; it names the versions that need each, and the place upstream.
"""
