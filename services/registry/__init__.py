"""The registry: the catalog of tenants, keys, bases, policies, revisions, aliases and evaluations.

Its Postgres schema is the only source of truth for existing revisions and the targets of model names. It
checks every exported adapter before an engine may serve it, and never loads one.
"""
