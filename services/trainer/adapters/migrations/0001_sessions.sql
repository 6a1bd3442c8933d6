-- A policy's training session: what a trainer needs to go on from its last committed step.
CREATE TABLE sessions (
    policy_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    base text NOT NULL,
    lora jsonb NOT NULL,
    step bigint NOT NULL CHECK (step >= 0),
    checkpoint jsonb,
    digest text NOT NULL,
    parent text,
    waves bigint NOT NULL CHECK (waves > 0),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((checkpoint IS NULL) = (step = 0))
);

-- Every wave that was trained, once: within a job, steps are taken in order and never twice.
CREATE TABLE waves (
    wave_id text PRIMARY KEY,
    policy_id text NOT NULL REFERENCES sessions,
    job_id text NOT NULL,
    job_step integer NOT NULL,
    session_step bigint NOT NULL,
    digest text NOT NULL,
    trained_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (job_id, job_step)
);
