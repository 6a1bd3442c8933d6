"""Pages by section. Each asks the public API and shows its answers, or that one is missing."""
