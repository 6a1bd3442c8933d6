"""Losses of clients' passes: values and gradients only, no model. One file each, found by `table.py`.

Losses that only managed jobs have are in `core/algorithms`.

Every loss is a sum, so that the parts of a step add up for any split; `Loss.aggregation` is a
managed step's divisor.
"""
