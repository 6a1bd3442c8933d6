"""Files and uploads: OpenAI's routes, and MinT's own view of a file."""
