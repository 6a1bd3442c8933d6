"""Clients of the services' internal HTTP."""
