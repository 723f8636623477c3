-- Who edits a letter, so that hosts wait for each other.
CREATE TABLE letter_edits (
    stream TEXT NOT NULL, partition BIGINT NOT NULL, letter BIGINT NOT NULL, id TEXT NOT NULL, until BIGINT NOT NULL,
    PRIMARY KEY (stream, partition, letter));
