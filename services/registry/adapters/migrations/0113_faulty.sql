-- Revisions that their owners did not retire and that cannot be served: few of all.
CREATE INDEX revisions_faulty ON revisions (policy_id, number)
    WHERE state = 'quarantined' OR (state = 'published' AND fault IN ('missing', 'wrong'));
