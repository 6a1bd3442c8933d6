-- Files that are gone: what was made of their rows is erased. A row stays while a run over its file may go on.
CREATE TABLE deleted_files (
    file_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    deleted_at double precision NOT NULL
);
CREATE INDEX deleted_files_by_age ON deleted_files (deleted_at);

-- Blobs of an ended job are looked at from `erase_after` on, until nothing of them is left at `erased_at`.
ALTER TABLE jobs
    ADD COLUMN is_file_gone boolean NOT NULL DEFAULT false,
    ADD COLUMN erase_after double precision NOT NULL DEFAULT 0,
    ADD COLUMN erased_at double precision;
CREATE INDEX jobs_kept ON jobs (finished_at) WHERE finished_at IS NOT NULL AND erased_at IS NULL;
CREATE INDEX jobs_of_deleted_files ON jobs (erase_after) WHERE is_file_gone AND erased_at IS NULL;
CREATE INDEX jobs_by_training_file ON jobs ((spec #>> '{data,training,file_id}'));
CREATE INDEX jobs_by_validation_file ON jobs ((spec #>> '{data,evaluation,file,file_id}'));
CREATE INDEX evaluation_runs_by_file ON evaluation_runs ((data #>> '{file,file_id}'));
