"""The model door: requests of an environment's agent as token prompts, and tokens as its answers."""
