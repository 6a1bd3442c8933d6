-- Files that were removed, until rollout is told to erase what it made of their rows.
CREATE TABLE removed_files (
    file_id text PRIMARY KEY,
    tenant_id text NOT NULL
);
