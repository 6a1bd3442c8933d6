"""What the trainer does when it is told something: waves that are complete, operations of clients."""
