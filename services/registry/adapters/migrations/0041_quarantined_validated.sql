-- Writers go on meanwhile.
ALTER TABLE revisions VALIDATE CONSTRAINT revisions_state_check;
