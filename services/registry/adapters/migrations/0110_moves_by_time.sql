-- The newest moves of a policy's aliases, for its timeline.
CREATE INDEX alias_history_by_time ON alias_history (policy_id, moved_at);
