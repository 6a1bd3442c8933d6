CREATE INDEX evaluations_by_time ON evaluations (policy_id, created_at);
