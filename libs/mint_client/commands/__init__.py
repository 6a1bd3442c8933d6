"""Command lines of users: one module per group of commands."""
