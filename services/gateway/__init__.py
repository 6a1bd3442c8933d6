"""The public HTTP of MinT: the OpenAI API under /v1 and MinT's own under /mint/v1."""
