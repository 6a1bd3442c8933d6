"""The registry's store in Postgres.

Promises (checked by tests/contract): each method is one atomic step that is durable when it returns; a write
and its events are committed together; lists are in the order that the method says, strictly after the
cursor, at most ``limit`` long. All raise Unavailable when the store does not answer.
"""
