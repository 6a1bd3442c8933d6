"""What the supervisor decides, as values: no clock, no process, no file."""
