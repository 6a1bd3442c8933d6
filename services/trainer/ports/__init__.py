"""Ports of the trainer."""
