-- An alias is removed while `removed` is its sequence. Processes of the version before do not read that: they see
-- the alias still, and their next move of it makes it anew.
ALTER TABLE aliases ADD COLUMN removed integer NOT NULL DEFAULT 0;
ALTER TABLE alias_history ADD COLUMN removed boolean NOT NULL DEFAULT false;
CREATE VIEW live_aliases AS
    SELECT policy_id, alias, sequence, number, protected, frozen FROM aliases WHERE sequence <> removed;
-- A removed policy has its id as name, which frees the name, and no published revision: to processes of the version
-- before it is a policy of that name.
ALTER TABLE policies ADD COLUMN removed_at timestamptz;
