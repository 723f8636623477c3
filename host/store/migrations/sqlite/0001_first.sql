CREATE TABLE agents (
    tenant TEXT NOT NULL, scope TEXT NOT NULL, agent_key TEXT NOT NULL, agent TEXT NOT NULL,
    state TEXT NOT NULL, version INTEGER NOT NULL, reason TEXT NOT NULL, actor TEXT NOT NULL, cause TEXT,
    at INTEGER NOT NULL, expires_at INTEGER,
    PRIMARY KEY (tenant, scope, agent_key)) STRICT, WITHOUT ROWID;
CREATE INDEX agents_not_running ON agents (tenant, scope, agent_key) WHERE state <> 'running';

CREATE TABLE agent_history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL, scope TEXT NOT NULL, agent_key TEXT NOT NULL, agent TEXT NOT NULL,
    state TEXT NOT NULL, version INTEGER NOT NULL, reason TEXT NOT NULL, actor TEXT NOT NULL, cause TEXT,
    at INTEGER NOT NULL, expires_at INTEGER) STRICT;
CREATE INDEX agent_history_by_agent ON agent_history (tenant, scope, agent_key, id);

-- An alert halts once; a reset keeps the cause of the halt that it ends.
CREATE UNIQUE INDEX agent_history_by_cause ON agent_history (cause) WHERE state = 'halted';

CREATE TABLE breakers (
    node TEXT NOT NULL, plugin TEXT NOT NULL, state TEXT NOT NULL, opened_at INTEGER, retry_at INTEGER,
    trips INTEGER NOT NULL, last_trip TEXT,
    PRIMARY KEY (node, plugin)) STRICT, WITHOUT ROWID;

CREATE TABLE letter_positions (
    stream TEXT NOT NULL, partition INTEGER NOT NULL, dlq INTEGER NOT NULL, retry INTEGER NOT NULL,
    PRIMARY KEY (stream, partition)) STRICT, WITHOUT ROWID;

CREATE TABLE letter_classes (
    stream TEXT NOT NULL, partition INTEGER NOT NULL, class INTEGER NOT NULL,
    stage TEXT NOT NULL, code TEXT NOT NULL, plugin TEXT, version TEXT,
    count INTEGER NOT NULL, waiting INTEGER NOT NULL, parked INTEGER NOT NULL,
    first_at INTEGER NOT NULL, last_at INTEGER NOT NULL,
    PRIMARY KEY (stream, partition, class)) STRICT, WITHOUT ROWID;

CREATE TABLE letter_segments (
    stream TEXT NOT NULL, partition INTEGER NOT NULL, segment INTEGER NOT NULL, class INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    waiting BLOB NOT NULL, parked BLOB NOT NULL,
    PRIMARY KEY (stream, partition, segment, class)) STRICT, WITHOUT ROWID;

CREATE TABLE redrives (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    stream TEXT NOT NULL, request TEXT NOT NULL, rate INTEGER NOT NULL,
    actor TEXT NOT NULL, reason TEXT NOT NULL, state TEXT NOT NULL, detail TEXT,
    created_at INTEGER NOT NULL, ended_at INTEGER) STRICT;
-- One at a time in a stream.
CREATE UNIQUE INDEX redrives_running ON redrives (stream) WHERE ended_at IS NULL;
CREATE INDEX redrives_by_stream ON redrives (stream, number);

CREATE TABLE redrive_progress (
    redrive TEXT NOT NULL REFERENCES redrives (id), partition INTEGER NOT NULL,
    next INTEGER NOT NULL, until INTEGER NOT NULL, moved INTEGER NOT NULL, skipped INTEGER NOT NULL,
    PRIMARY KEY (redrive, partition)) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL,
    actor TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL, tenant TEXT, reason TEXT, facts TEXT NOT NULL) STRICT;
CREATE INDEX audit_by_time ON audit (at);
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
