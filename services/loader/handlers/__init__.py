"""What the loader does: it answers requests, loads adapters, and keeps them where they are used."""
