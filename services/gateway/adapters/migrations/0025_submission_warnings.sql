-- What its submission said of a job: the policy's name, and what may go wrong.
ALTER TABLE submissions ADD COLUMN policy text;
ALTER TABLE submissions ADD COLUMN warnings jsonb NOT NULL DEFAULT '[]';
