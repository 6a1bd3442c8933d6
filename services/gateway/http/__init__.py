"""The public routes, one folder per API. Each request acts for the tenant of its key."""
