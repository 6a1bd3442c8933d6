-- Children before the tables that they refer to: writers of the version before, which lock rows of the parent
-- first, hold nothing that these locks wait for. Readers pass.
LOCK TABLE revisions, api_keys, policies IN SHARE ROW EXCLUSIVE MODE;

-- What a tenant has. Triggers count, so that processes of the version before do too.
CREATE TABLE tenant_usage (
    tenant_id     text PRIMARY KEY,
    policies      bigint NOT NULL DEFAULT 0,
    keys          bigint NOT NULL DEFAULT 0,
    adapters      bigint NOT NULL DEFAULT 0,
    adapter_bytes bigint NOT NULL DEFAULT 0
);

CREATE FUNCTION count_usage(
    owner text, policies bigint, keys bigint, adapters bigint, adapter_bytes bigint
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO tenant_usage AS usage (tenant_id, policies, keys, adapters, adapter_bytes)
    VALUES (owner, policies, keys, adapters, adapter_bytes)
    ON CONFLICT (tenant_id) DO UPDATE SET policies = usage.policies + excluded.policies,
        keys = usage.keys + excluded.keys, adapters = usage.adapters + excluded.adapters,
        adapter_bytes = usage.adapter_bytes + excluded.adapter_bytes
$$;

CREATE FUNCTION count_policies() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM count_usage(tenant_id, count(*), 0, 0, 0) FROM added GROUP BY tenant_id ORDER BY tenant_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER policies_are_counted AFTER INSERT ON policies
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_policies();

CREATE FUNCTION count_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM count_usage(NEW.tenant_id, 0, (NEW.revoked_at IS NULL)::int - CASE
        WHEN TG_OP = 'INSERT' THEN 0 ELSE (OLD.revoked_at IS NULL)::int END, 0, 0);
    RETURN NULL;
END
$$;
CREATE TRIGGER keys_are_counted AFTER INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION count_keys();
CREATE TRIGGER revoked_keys_are_counted AFTER UPDATE OF revoked_at ON api_keys
    FOR EACH ROW EXECUTE FUNCTION count_keys();

CREATE FUNCTION count_adapters() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM count_usage(tenant_id, 0, 0, count(*), sum(size_bytes)::bigint)
    FROM added JOIN policies USING (policy_id) GROUP BY tenant_id ORDER BY tenant_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER adapters_are_counted AFTER INSERT ON revisions
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_adapters();

CREATE FUNCTION count_collected() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    sign bigint := CASE WHEN NEW.fault = 'collected' THEN -1 ELSE 1 END;
BEGIN
    PERFORM count_usage(tenant_id, 0, 0, sign, sign * NEW.size_bytes)
    FROM policies WHERE policy_id = NEW.policy_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER collected_adapters_are_counted AFTER UPDATE OF fault ON revisions FOR EACH ROW
    WHEN ((OLD.fault IS NOT DISTINCT FROM 'collected') IS DISTINCT FROM (NEW.fault IS NOT DISTINCT FROM 'collected'))
    EXECUTE FUNCTION count_collected();

INSERT INTO tenant_usage (tenant_id, policies, keys, adapters)
SELECT tenant_id,
    (SELECT count(*) FROM policies WHERE policies.tenant_id = tenants.tenant_id),
    (SELECT count(*) FROM api_keys WHERE api_keys.tenant_id = tenants.tenant_id AND revoked_at IS NULL),
    (SELECT count(*) FROM revisions JOIN policies USING (policy_id)
     WHERE policies.tenant_id = tenants.tenant_id AND fault IS DISTINCT FROM 'collected')
FROM tenants;
