"""The base in memory: its inputs, its scores, and how its folder is made."""
