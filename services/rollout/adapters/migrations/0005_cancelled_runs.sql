ALTER TABLE evaluation_runs DROP CONSTRAINT evaluation_runs_state_check;
ALTER TABLE evaluation_runs
    ADD CONSTRAINT evaluation_runs_state_check
    CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled'));
