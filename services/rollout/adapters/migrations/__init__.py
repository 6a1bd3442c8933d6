"""Numbered SQL files of the schema `rollout`, applied in order at start."""
