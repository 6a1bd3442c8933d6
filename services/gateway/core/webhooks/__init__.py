"""Webhooks: the events that a tenant's own servers receive, decided from values alone."""
