"""The public HTTP of MinT: OpenAI's API under /v1, Tinker's under /api/v1 and MinT's own under /mint/v1."""
