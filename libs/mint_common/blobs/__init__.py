"""Blob storage: a port, local files, S3, and a memory adapter for tests."""
