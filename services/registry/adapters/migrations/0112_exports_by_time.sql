CREATE INDEX exports_by_time ON exports (policy_id, settled_at);
