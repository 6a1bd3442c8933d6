"""The code of an environment's processes: the standard library and the package of its kind, nothing else."""
