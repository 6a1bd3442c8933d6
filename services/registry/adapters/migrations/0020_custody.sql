-- Why the bytes of a revision are not to be had; null: nothing wrong is known of them.
ALTER TABLE revisions
    ADD COLUMN fault text CHECK (fault IN ('missing', 'wrong', 'collected')),
    ADD COLUMN retired_at timestamptz;
UPDATE revisions SET retired_at = now() WHERE state = 'retired';
CREATE INDEX revisions_lost ON revisions (policy_id, number) WHERE fault IN ('missing', 'wrong');
CREATE INDEX revisions_retired ON revisions (policy_id, number) WHERE state = 'retired';

-- Folders of the blob store that no revision names: since when that is known, and whether they are being removed.
CREATE TABLE garbage (
    prefix   text COLLATE "C" PRIMARY KEY,
    found_at timestamptz NOT NULL,
    is_going boolean NOT NULL DEFAULT false
);
CREATE INDEX garbage_going ON garbage (prefix) WHERE is_going;

-- How far each walk over the whole catalog or store has come.
CREATE TABLE walks (
    name  text PRIMARY KEY,
    place text NOT NULL
);
