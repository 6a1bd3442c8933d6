"""What a user types: one module a group of commands."""
