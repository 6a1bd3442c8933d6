-- A job's id is derived from key and content of its request, so the hash of its body says nothing more.
ALTER TABLE submissions DROP COLUMN body_sha256;
