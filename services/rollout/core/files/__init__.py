"""Tenants' files: records, refusals and answers."""
