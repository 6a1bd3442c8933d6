"""The registry's store in Postgres.

The promises of `ports` hold for all methods, also those that only routes use.
"""
