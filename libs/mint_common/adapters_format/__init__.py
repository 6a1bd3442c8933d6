"""The adapter file: base facts, manifest, canonical names, reading, writing and checking. No torch here."""
