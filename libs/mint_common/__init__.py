"""The contract between MinT's services, and the plumbing that all of them share."""
