-- Managed jobs train by operations too. Their sessions become those of the log: the newest checkpoint is the
-- snapshot that the first operation goes on from.
ALTER TABLE training ADD COLUMN is_managed boolean NOT NULL DEFAULT false;

INSERT INTO training
    (policy_id, tenant_id, base, lora, metadata, step, snapshot, digest, parent, created_at, last_operation_at,
        is_managed)
SELECT policy_id, tenant_id, base, lora, '{}', step, checkpoint, digest, parent,
    extract(epoch FROM updated_at), extract(epoch FROM updated_at), true
FROM sessions;

-- The waves that were taken in: within a job, steps are taken in order and never twice.
ALTER TABLE waves
    DROP CONSTRAINT waves_policy_id_fkey,
    ADD FOREIGN KEY (policy_id) REFERENCES training,
    DROP COLUMN session_step,
    DROP COLUMN digest;
ALTER TABLE waves RENAME COLUMN trained_at TO taken_at;

DROP TABLE sessions;

CREATE INDEX operations_waiting ON operations (policy_id) WHERE finished_at IS NULL;
