"""The OpenAI API under ``/v1``."""
