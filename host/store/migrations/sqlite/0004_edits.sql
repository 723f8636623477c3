-- Who edits a letter, so that hosts wait for each other.
CREATE TABLE letter_edits (
    stream TEXT NOT NULL, partition INTEGER NOT NULL, letter INTEGER NOT NULL, id TEXT NOT NULL, until INTEGER NOT NULL,
    PRIMARY KEY (stream, partition, letter)) STRICT, WITHOUT ROWID;
