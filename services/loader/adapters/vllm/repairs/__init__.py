"""What mends vLLM's own behaviour, or replaces it; `adapters/vllm_plugin.py` says where each applies."""
