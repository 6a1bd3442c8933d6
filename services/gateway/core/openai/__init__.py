"""The inference APIs: the few fields of a request that the gateway reads before it forwards the bytes."""
