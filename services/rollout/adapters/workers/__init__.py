"""Processes that run the code of tasks, apart from the service."""
