-- An upload is not read before it is passed on: what it was is known, and compared, afterwards.
ALTER TABLE requests ADD COLUMN streamed_sha256 text;
