-- Where raw was made anew, another record stands where one stood that led to an alert: both alerts have the same id,
-- and the times of their records tell them apart.
ALTER TABLE agents ADD COLUMN cause_at INTEGER;
ALTER TABLE agent_history ADD COLUMN cause_at INTEGER;
DROP INDEX agent_history_by_cause;
CREATE UNIQUE INDEX agent_history_by_cause ON agent_history (cause, (COALESCE(cause_at, 0))) WHERE state = 'halted';
