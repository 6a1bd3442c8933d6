"""The chat template of the resident base, through transformers."""
