"""The message bus: a port, the NATS JetStream adapter, and a memory adapter for tests."""
