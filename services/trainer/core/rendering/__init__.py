"""Rows as token ids with the tokens that are trained, by a base's own chat template."""
