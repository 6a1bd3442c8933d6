-- Equal bytes of several tenants are one adapter: each tenant has a row, and a pin, of its own.
ALTER TABLE working_set DROP CONSTRAINT working_set_pkey;
ALTER TABLE working_set ADD PRIMARY KEY (engine_id, digest, tenant_id);
