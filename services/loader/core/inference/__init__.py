"""What the loader accepts for vLLM's request models, which check the values.

Invariant: no accepted request makes a server fetch an address, or holds an engine up.
"""
