-- Rows that no writer changes: all go on meanwhile.
UPDATE evaluations SET tenant_id = policies.tenant_id FROM policies
    WHERE policies.policy_id = evaluations.policy_id AND evaluations.tenant_id IS NULL;
