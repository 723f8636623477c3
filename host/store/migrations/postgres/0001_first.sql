CREATE TABLE agents (
    tenant TEXT NOT NULL, scope TEXT NOT NULL, agent_key TEXT NOT NULL, agent TEXT NOT NULL,
    state TEXT NOT NULL, version BIGINT NOT NULL, reason TEXT NOT NULL, actor TEXT NOT NULL, cause TEXT,
    at BIGINT NOT NULL, expires_at BIGINT,
    PRIMARY KEY (tenant, scope, agent_key));
CREATE INDEX agents_not_running ON agents (tenant, scope, agent_key) WHERE state <> 'running';

CREATE TABLE agent_history (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant TEXT NOT NULL, scope TEXT NOT NULL, agent_key TEXT NOT NULL, agent TEXT NOT NULL,
    state TEXT NOT NULL, version BIGINT NOT NULL, reason TEXT NOT NULL, actor TEXT NOT NULL, cause TEXT,
    at BIGINT NOT NULL, expires_at BIGINT);
CREATE INDEX agent_history_by_agent ON agent_history (tenant, scope, agent_key, id);

-- An alert halts once; a reset keeps the cause of the halt that it ends.
CREATE UNIQUE INDEX agent_history_by_cause ON agent_history (cause) WHERE state = 'halted';

CREATE TABLE breakers (
    node TEXT NOT NULL, plugin TEXT NOT NULL, state TEXT NOT NULL, opened_at BIGINT, retry_at BIGINT,
    trips BIGINT NOT NULL, last_trip TEXT,
    PRIMARY KEY (node, plugin));

CREATE TABLE letter_positions (
    stream TEXT NOT NULL, partition BIGINT NOT NULL, dlq BIGINT NOT NULL, retry BIGINT NOT NULL,
    PRIMARY KEY (stream, partition));

CREATE TABLE letter_classes (
    stream TEXT NOT NULL, partition BIGINT NOT NULL, class BIGINT NOT NULL,
    stage TEXT NOT NULL, code TEXT NOT NULL, plugin TEXT, version TEXT,
    count BIGINT NOT NULL, waiting BIGINT NOT NULL, parked BIGINT NOT NULL,
    first_at BIGINT NOT NULL, last_at BIGINT NOT NULL,
    PRIMARY KEY (stream, partition, class));

CREATE TABLE letter_segments (
    stream TEXT NOT NULL, partition BIGINT NOT NULL, segment BIGINT NOT NULL, class BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    waiting BYTEA NOT NULL, parked BYTEA NOT NULL,
    PRIMARY KEY (stream, partition, segment, class));

CREATE TABLE redrives (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    stream TEXT NOT NULL, request TEXT NOT NULL, rate BIGINT NOT NULL,
    actor TEXT NOT NULL, reason TEXT NOT NULL, state TEXT NOT NULL, detail TEXT,
    created_at BIGINT NOT NULL, ended_at BIGINT);
-- One at a time in a stream.
CREATE UNIQUE INDEX redrives_running ON redrives (stream) WHERE ended_at IS NULL;
CREATE INDEX redrives_by_stream ON redrives (stream, number);

CREATE TABLE redrive_progress (
    redrive TEXT NOT NULL REFERENCES redrives (id), partition BIGINT NOT NULL,
    next BIGINT NOT NULL, until BIGINT NOT NULL, moved BIGINT NOT NULL, skipped BIGINT NOT NULL,
    PRIMARY KEY (redrive, partition));

CREATE TABLE audit (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id TEXT NOT NULL UNIQUE, at BIGINT NOT NULL,
    actor TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL, tenant TEXT, reason TEXT, facts TEXT NOT NULL);
CREATE INDEX audit_by_time ON audit (at);
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$;
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_is_never_emptied BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
