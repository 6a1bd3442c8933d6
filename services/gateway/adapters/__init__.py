"""The gateway's technologies: Postgres, blobs, internal HTTP, local files, processes, posts to webhooks."""
