"""A policy's LoRA: its tensors, and the base's modules that apply it."""
