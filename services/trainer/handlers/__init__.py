"""What the trainer does on events and requests: completed waves, operations of clients."""
