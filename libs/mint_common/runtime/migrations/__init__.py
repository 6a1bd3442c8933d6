"""The ledger's own tables, made in the schema of every service that has one."""
