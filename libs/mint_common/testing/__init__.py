"""Test support for MinT and its extensions: memory adapters, factories, a simulator of kills."""
