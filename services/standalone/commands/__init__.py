"""One file per command of `mint`."""
