-- What was trained from a revision; most policies of a large catalog have one revision, which has no parent.
CREATE INDEX revisions_by_parent ON revisions (policy_id, parent) WHERE parent IS NOT NULL;
