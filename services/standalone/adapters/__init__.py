"""Launch specifications of embedded parts, and the processes that run them."""
