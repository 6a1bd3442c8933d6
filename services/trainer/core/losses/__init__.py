"""Losses of clients' passes: values and gradients only, no model. A file each, which `table.py` finds.

Those that only managed jobs have are in `core/algorithms`.

Every loss is a sum, so that the parts of a step add up however it is cut; `Loss.aggregation` says what a
managed step divides it by.
"""
