"""Decisions of the registry as values: names, keys, LoRA shapes, alias moves, verdicts on exports."""
