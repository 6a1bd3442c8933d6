"""The trainer's handlers of events and requests: completed waves, clients' operations."""
