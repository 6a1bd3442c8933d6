"""Files and uploads: OpenAI's routes, and MinT's view of a file."""
