"""The registry: the catalog of tenants, keys, bases, policies, revisions, aliases and evaluations.

Its Postgres schema is the only truth about which revisions exist and what a name means. It checks every
exported adapter before anybody may serve it, and never loads one.
"""
