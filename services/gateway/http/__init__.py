"""The public routes, one folder per API. Everything happens under the tenant of the caller's key."""
