"""The public routes, one file per noun. Everything happens under the tenant of the caller's key."""
