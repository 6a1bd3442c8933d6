"""For tests of MinT and of whatever builds on it: memory adapters, factories, a simulator of kills."""
