"""Jobs on files."""
