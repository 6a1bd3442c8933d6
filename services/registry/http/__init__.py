"""The registry's HTTP: the catalog API under ``/internal``, each request checked, then one call of a port."""
