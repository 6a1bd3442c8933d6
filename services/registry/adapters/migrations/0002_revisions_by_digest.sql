CREATE INDEX revisions_by_digest ON revisions (digest);
