-- The beginnings of digests, which ids of answers have: compared whole, so that no collation matters.
CREATE INDEX revisions_by_prefix ON revisions (substr(digest, 8, 16));
