-- Rows of finished operations are deleted in time, also while their session is open. A number below this one
-- without a row was an operation's: it is not executed again.
ALTER TABLE training ADD COLUMN forgotten_seq bigint NOT NULL DEFAULT 0;
