-- Engines and trainers that renew their rows: see mint_common.members.
CREATE TABLE members (
    kind       text NOT NULL,
    member_id  text NOT NULL,
    epoch      text NOT NULL,
    started_at timestamptz NOT NULL,
    url        text NOT NULL,
    base       text NOT NULL,
    state      text NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, member_id)
) WITH (fillfactor = 50);
