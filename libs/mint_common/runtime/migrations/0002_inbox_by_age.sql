CREATE INDEX mint_inbox_by_age ON mint_inbox (committed_at);
