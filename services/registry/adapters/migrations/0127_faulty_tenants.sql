-- The tenant of a revision that its owner did not retire and that cannot be served; null of all others.
ALTER TABLE revisions ADD COLUMN faulty_tenant text;
