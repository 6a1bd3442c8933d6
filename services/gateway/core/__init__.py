"""The gateway's decisions as pure functions: what is a valid request, and what does an answer look like."""
