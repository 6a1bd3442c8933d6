-- Whose policy was moved: a tenant's timeline reads its own moves alone. A trigger fills the column, so that
-- processes of the version before do too.
ALTER TABLE alias_history ADD COLUMN tenant_id text;
CREATE FUNCTION add_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT tenant_id INTO NEW.tenant_id FROM policies WHERE policy_id = NEW.policy_id;
    RETURN NEW;
END
$$;
CREATE TRIGGER moves_have_tenants BEFORE INSERT ON alias_history
    FOR EACH ROW EXECUTE FUNCTION add_tenant();
