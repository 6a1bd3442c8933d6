-- Waits for all who have locked a policy, so that the count misses no publication; readers pass.
LOCK TABLE policies IN EXCLUSIVE MODE;

UPDATE policies SET published = counted.published, is_published = counted.published > 0 FROM (
    SELECT policy_id, count(number) FILTER (WHERE state = 'published') AS published
    FROM policies LEFT JOIN revisions USING (policy_id) GROUP BY policy_id
) counted WHERE counted.policy_id = policies.policy_id AND counted.published <> policies.published;

CREATE INDEX policies_published ON policies (tenant_id, is_published, name);
CREATE INDEX policies_published_by_age ON policies (tenant_id, is_published, created_at, name);
