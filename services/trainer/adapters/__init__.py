"""Technologies: torch and transformers, Postgres, blobs."""
