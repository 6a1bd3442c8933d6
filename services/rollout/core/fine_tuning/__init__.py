"""The fine-tuning API of OpenAI."""
