"""Decisions and formulas of training: no I/O, no clock; torch only in `losses`."""
