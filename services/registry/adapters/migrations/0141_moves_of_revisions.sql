-- The aliases that pointed at a revision.
CREATE INDEX alias_history_of_revision ON alias_history (policy_id, number, moved_at);
