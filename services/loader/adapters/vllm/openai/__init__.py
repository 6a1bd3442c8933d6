"""The inference APIs, answered by vLLM's own serving classes around the loader's AsyncLLM.

Nothing of vLLM is patched: each call has its own shallow copies of the serving objects, in which the engine,
the list of models and the renderer are the call's own.
"""
