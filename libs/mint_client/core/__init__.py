"""What the client decides and shows, as values."""
