-- Whether member.changed has told that a member's lease has ended.
ALTER TABLE members ADD COLUMN is_silent boolean NOT NULL DEFAULT false;
