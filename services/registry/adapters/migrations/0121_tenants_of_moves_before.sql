-- The history's trigger lets this transaction alone fill the column; others see it refuse. Writers go on meanwhile.
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RETURN NEW;
END
$$;
UPDATE alias_history SET tenant_id = policies.tenant_id FROM policies
    WHERE policies.policy_id = alias_history.policy_id AND alias_history.tenant_id IS NULL;
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END
$$;
