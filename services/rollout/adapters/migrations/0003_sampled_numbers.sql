-- The number of the revision that a wave was sampled at, beside its digest.
ALTER TABLE waves ADD COLUMN sampled_number integer;
