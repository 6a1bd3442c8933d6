"""A policy's training state: in memory, as bytes, and in the blob store."""
