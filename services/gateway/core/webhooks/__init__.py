"""Webhooks: what a tenant's own servers are told, decided from values alone."""
