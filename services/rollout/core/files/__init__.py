"""Tenants' files: what is stored of them, what is refused, how they are answered."""
