-- Old rows of the audit log, which are in order of time: an index of a few pages.
CREATE INDEX audit_by_age ON audit USING brin (at);
-- Webhooks that may be tried, in the order in which they came to be: those that rest are not walked.
CREATE INDEX webhooks_by_turn ON webhooks (greatest(due_at, not_before))
    WHERE state = 'active' AND due_at IS NOT NULL;
