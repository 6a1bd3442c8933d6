"""The inference APIs, which vLLM answers: what is looked at in a request before it is handed on.

Invariant: a field that cannot take effect is refused by name.
"""
