"""Internal HTTP of the trainer."""
