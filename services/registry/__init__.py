"""The registry: the catalog of tenants, keys, bases, policies, revisions, aliases and evaluations.

Its Postgres schema is the only source of truth for which revisions exist and what a model name means. It
checks every exported adapter before an engine may serve it, and never loads one.
"""
