"""The gateway's decisions as pure functions: what a valid request is, and what an answer looks like."""
