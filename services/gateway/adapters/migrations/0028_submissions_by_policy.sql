-- The newest job of a policy, whose task a new job is compared with.
CREATE INDEX submissions_by_policy ON submissions (tenant_id, policy_id, submitted_at DESC);
