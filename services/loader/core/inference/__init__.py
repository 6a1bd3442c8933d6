"""What the loader lets pass to vLLM's request models, which check the values.

Invariant: nothing is handed on that would make a server fetch an address, or hold an engine up.
"""
