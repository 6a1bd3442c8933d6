-- The last step whose wave was requested: sampling may run ahead of training by some steps. The newest steps in
-- a row that trained on nothing.
ALTER TABLE jobs
    ADD COLUMN requested integer NOT NULL DEFAULT 0,
    ADD COLUMN idle_steps integer NOT NULL DEFAULT 0,
    ADD COLUMN earlier_causes jsonb NOT NULL DEFAULT '[]';
UPDATE jobs SET requested = least(steps_done + 1, (spec ->> 'steps')::integer) WHERE state = 'running';
UPDATE jobs SET requested = steps_done WHERE state = 'paused';
