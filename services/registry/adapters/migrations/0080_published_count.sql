-- How many published revisions a policy has. A trigger counts, so that processes of the version before do too;
-- they lock the policy before its revisions, as all writers do, so that no two deadlock.
ALTER TABLE policies ADD COLUMN published integer NOT NULL DEFAULT 0;

CREATE FUNCTION count_published() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE policies SET published = published + (NEW.state = 'published')::int
        - CASE WHEN TG_OP = 'UPDATE' THEN (OLD.state = 'published')::int ELSE 0 END
    WHERE policy_id = NEW.policy_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER published_are_counted AFTER INSERT ON revisions
    FOR EACH ROW WHEN (NEW.state = 'published') EXECUTE FUNCTION count_published();
CREATE TRIGGER changes_of_published_are_counted AFTER UPDATE OF state ON revisions FOR EACH ROW
    WHEN ((OLD.state = 'published') <> (NEW.state = 'published')) EXECUTE FUNCTION count_published();

UPDATE policies SET published = counted.published FROM (
    SELECT policy_id, count(*) AS published FROM revisions WHERE state = 'published' GROUP BY policy_id
) counted WHERE counted.policy_id = policies.policy_id;

-- Of a column of its own, which seldom changes: a publication leaves all indexes of its policy alone.
ALTER TABLE policies ADD COLUMN is_published boolean GENERATED ALWAYS AS (published > 0) STORED;
CREATE INDEX policies_published ON policies (tenant_id, is_published, name);
CREATE INDEX policies_published_by_age ON policies (tenant_id, is_published, created_at, name);
