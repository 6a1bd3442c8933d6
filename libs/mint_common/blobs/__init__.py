"""Blob storage: a port, local files and S3."""
