-- The standard error of a score, where its evaluator gave one.
ALTER TABLE evaluations ADD COLUMN stderr double precision;
