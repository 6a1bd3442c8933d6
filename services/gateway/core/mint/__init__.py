"""Decisions of MinT's own API: jobs, policies, residency, uploads."""
