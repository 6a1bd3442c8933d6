"""The public API, files, and the folder of a stack on this machine."""
