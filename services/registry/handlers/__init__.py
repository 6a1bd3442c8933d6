"""Event handlers and long operations of the registry."""
