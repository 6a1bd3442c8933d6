"""The loader: one vLLM engine, and the adapters on it.

Invariants: an adapter is checked before the engine sees a byte of it; one load per revision however many
want it; what is pinned or in use is never evicted; every answer names the revision that produced it.
"""
