"""What runs in an environment's processes. A file imports the standard library and its kind's package."""
