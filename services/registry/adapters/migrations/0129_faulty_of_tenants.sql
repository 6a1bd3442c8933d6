-- A tenant's list reads its own revisions alone, whatever others have lost.
CREATE INDEX revisions_faulty_of_tenant ON revisions (faulty_tenant, policy_id, number)
    WHERE faulty_tenant IS NOT NULL;
