-- Waves whose episodes agents elsewhere run: the process that has them in memory, and what the job waits for.
-- A row that its process no longer renews is of one that has ended.
CREATE TABLE agent_waves (
    wave_id text PRIMARY KEY,
    job_id text NOT NULL,
    url text NOT NULL,
    waits_for text NOT NULL,
    seen_at double precision NOT NULL
);
CREATE INDEX agent_waves_of_job ON agent_waves (job_id);
