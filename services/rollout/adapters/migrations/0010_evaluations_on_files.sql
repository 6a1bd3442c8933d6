ALTER TABLE evaluation_runs
    -- A bare base has no policy and no revision.
    ALTER COLUMN policy_id DROP NOT NULL,
    ALTER COLUMN revision DROP NOT NULL,
    ADD COLUMN suite text,
    ADD COLUMN metric text NOT NULL DEFAULT 'reward',
    ADD COLUMN data jsonb,
    ADD COLUMN grader_errors jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN dropped integer NOT NULL DEFAULT 0;
UPDATE evaluation_runs SET suite = task;
ALTER TABLE evaluation_runs ALTER COLUMN suite SET NOT NULL;

-- The answers of a tenant's newest runs; "row" counts from 1.
CREATE TABLE evaluation_rows (
    run_id text NOT NULL REFERENCES evaluation_runs,
    "row" integer NOT NULL,
    score double precision,
    answer text NOT NULL,
    weight double precision NOT NULL,
    fault text NOT NULL,
    message text NOT NULL,
    PRIMARY KEY (run_id, "row")
);
