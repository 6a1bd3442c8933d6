"""Waves and managed jobs: what to sample next, at which revision, and how it scores. Holds no weights."""
