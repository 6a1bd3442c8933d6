"""Fields and limits that the loader accepts; vLLM's request models check the values.

Invariant: no accepted request makes a server fetch an address, or blocks an engine.
"""
