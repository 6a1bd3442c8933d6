"""Graders at work: texts compared in threads, users' source in sandboxes, questions to models on engines."""
