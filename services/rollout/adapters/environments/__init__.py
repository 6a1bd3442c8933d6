"""Environments that others wrote, each in an installation and in processes of its own."""
