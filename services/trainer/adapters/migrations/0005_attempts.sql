-- How often a process began to compute an operation, knowing that it may be what ended the process before.
ALTER TABLE operations ADD COLUMN attempts integer NOT NULL DEFAULT 0;
