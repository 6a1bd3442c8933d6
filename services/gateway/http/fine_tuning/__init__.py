"""``/v1/fine_tuning``: OpenAI's API of fine-tuning."""
