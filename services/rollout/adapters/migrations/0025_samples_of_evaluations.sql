-- Episodes of each task of a run in an environment.
ALTER TABLE evaluation_runs ADD COLUMN samples integer NOT NULL DEFAULT 1;
