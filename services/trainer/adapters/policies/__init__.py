"""Policies in memory, and the threads that work on them."""
