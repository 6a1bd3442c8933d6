"""Tasks that ship with MinT, and the catalog that finds every installed one."""
