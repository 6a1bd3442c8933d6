-- The claim of the trainer's log-probabilities of a wave's record.
ALTER TABLE waves ADD COLUMN logprobs jsonb;
