"""Repairs and replacements of vLLM's behaviour; `adapters/vllm_plugin.py` says where each applies."""
