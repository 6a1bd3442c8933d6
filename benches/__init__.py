"""One file per question; each writes out/bench/<name>.json and a plot beside it.

A bench module has ``run() -> Report`` and is run in a process of its own. Ratios are measured in one run, so
that a busy machine slows both sides; beside each row stands what physics or the rest of the system allows.
"""
