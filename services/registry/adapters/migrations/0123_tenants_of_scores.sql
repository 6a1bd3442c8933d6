-- Whose policy was scored, as with moves.
ALTER TABLE evaluations ADD COLUMN tenant_id text;
CREATE TRIGGER scores_have_tenants BEFORE INSERT ON evaluations
    FOR EACH ROW EXECUTE FUNCTION add_tenant();
