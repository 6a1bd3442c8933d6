-- Triggers count, so that processes of the version before do too; they lock the policy before its revisions, as
-- all writers do, so that no two deadlock. This file locks revisions alone, and the next one policies alone.
CREATE FUNCTION count_published() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    change integer := (NEW.state = 'published')::int
        - CASE WHEN TG_OP = 'UPDATE' THEN (OLD.state = 'published')::int ELSE 0 END;
BEGIN
    UPDATE policies SET published = published + change, is_published = published + change > 0
    WHERE policy_id = NEW.policy_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER published_are_counted AFTER INSERT ON revisions
    FOR EACH ROW WHEN (NEW.state = 'published') EXECUTE FUNCTION count_published();
CREATE TRIGGER changes_of_published_are_counted AFTER UPDATE OF state ON revisions FOR EACH ROW
    WHEN ((OLD.state = 'published') <> (NEW.state = 'published')) EXECUTE FUNCTION count_published();
