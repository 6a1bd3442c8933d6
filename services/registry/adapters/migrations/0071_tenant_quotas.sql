-- What a tenant may have otherwise than the settings say, such as {"policies": 5}; 0 is without a bound.
ALTER TABLE tenants ADD COLUMN quotas jsonb NOT NULL DEFAULT '{}';
