-- A rule has at_least, of scores that are better when larger, or at_most, of losses.
ALTER TABLE rules
    ALTER COLUMN at_least DROP NOT NULL,
    ADD COLUMN at_most double precision,
    ADD COLUMN max_rise double precision,
    ADD COLUMN roll_back_above double precision,
    ADD CHECK ((at_least IS NULL) <> (at_most IS NULL));
