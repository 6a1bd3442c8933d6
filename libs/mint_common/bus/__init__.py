"""The message bus: a port and its NATS JetStream adapter."""
