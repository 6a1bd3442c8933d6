"""Curves, advice and texts computed from the API's answers for the console. Pure."""
