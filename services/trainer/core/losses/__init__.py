"""Losses: values and gradients only, no model. A file each.

Those of clients' passes are listed in `table.py`, those of managed jobs in `core/algorithms.py`.

Every loss is a sum, so that the parts of a step add up however it is cut; `Loss.aggregation` says what a
managed step divides it by.
"""
