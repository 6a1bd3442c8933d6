-- A trigger fills the column, so that processes of the version before do too. Few rows have it; writers wait
-- meanwhile, readers pass.
CREATE FUNCTION set_faulty_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.faulty_tenant := CASE
        WHEN NEW.state = 'quarantined' OR (NEW.state = 'published' AND NEW.fault IN ('missing', 'wrong'))
        THEN (SELECT tenant_id FROM policies WHERE policy_id = NEW.policy_id)
    END;
    RETURN NEW;
END
$$;
CREATE TRIGGER faulty_have_tenants BEFORE INSERT OR UPDATE OF state, fault ON revisions
    FOR EACH ROW EXECUTE FUNCTION set_faulty_tenant();
UPDATE revisions SET faulty_tenant = policies.tenant_id FROM policies
    WHERE policies.policy_id = revisions.policy_id
    AND (state = 'quarantined' OR (state = 'published' AND fault IN ('missing', 'wrong')));
