"""The tables, as numbered migrations: `PRAGMA user_version` is how many of them a file has had.

- `body` is the JSON of the domain value; the other columns are what is searched for, and nothing else.
- `jobs.result` holds what can be large, as the last column, so that listings never read it.
- `jobs_open_or_failed` (and cancelled) leaves completed jobs out, however many there are (facts: queue 6).
- `jobs_of_owner` and its like leave the rows without an owner out: a service without keys pays nothing for them.
- `open_jobs` is kept by triggers: how many are open is asked for every new job, and must not mean counting.
- `sessions.due_at` is when the first job of the line may start, NULL unless that job is queued. So a job that
  waits behind another one is in no index that the sweep reads.
"""

import apsw

from overnight.ports import SchemaTooNew

FIRST = """
CREATE TABLE sessions (
    session_id  TEXT PRIMARY KEY,
    created_at  REAL NOT NULL,
    erased_at   REAL,
    head        TEXT,
    due_at      REAL,
    body        BLOB NOT NULL
) STRICT;
CREATE INDEX sessions_listed ON sessions (created_at, session_id) WHERE erased_at IS NULL;
CREATE INDEX sessions_erasing ON sessions (erased_at) WHERE erased_at IS NOT NULL;
CREATE INDEX sessions_due ON sessions (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE jobs (
    seq           INTEGER PRIMARY KEY,
    job_id        TEXT NOT NULL UNIQUE,
    session_id    TEXT NOT NULL,
    status        TEXT NOT NULL,
    available_at  REAL NOT NULL,
    body          BLOB NOT NULL,
    result        BLOB
) STRICT;
CREATE INDEX jobs_of_session ON jobs (session_id, job_id);
CREATE INDEX jobs_open_or_failed ON jobs (status, job_id) WHERE status <> 'completed';

CREATE TABLE requests (
    job_id  TEXT PRIMARY KEY,
    body    BLOB NOT NULL
) STRICT;

CREATE TABLE events (
    job_id  TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    body    BLOB NOT NULL,
    PRIMARY KEY (job_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE deliveries (
    seq          INTEGER PRIMARY KEY,
    delivery_id  TEXT NOT NULL UNIQUE,
    job_id       TEXT NOT NULL,
    owed_at      REAL,
    body         BLOB NOT NULL
) STRICT;
CREATE INDEX deliveries_of_job ON deliveries (job_id);
CREATE INDEX deliveries_owed ON deliveries (owed_at) WHERE owed_at IS NOT NULL;

CREATE TABLE idempotency (
    key          TEXT PRIMARY KEY,
    fingerprint  TEXT NOT NULL,
    job_id       TEXT NOT NULL,
    created_at   REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_age ON idempotency (created_at);
CREATE INDEX idempotency_of_job ON idempotency (job_id);

CREATE TABLE bells (
    job_id      TEXT PRIMARY KEY,
    visible_at  REAL NOT NULL,
    receipt     TEXT,
    rung        INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX bells_due ON bells (visible_at);
"""

OWNERS = """
CREATE TABLE api_keys (
    key_id      TEXT PRIMARY KEY,
    created_at  REAL NOT NULL,
    body        BLOB NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX jobs_of_owner ON jobs (owner, job_id) WHERE owner <> '';
CREATE INDEX jobs_of_owner_open_or_failed ON jobs (owner, status, job_id)
    WHERE owner <> '' AND status <> 'completed';

ALTER TABLE sessions ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX sessions_of_owner ON sessions (owner, created_at, session_id)
    WHERE owner <> '' AND erased_at IS NULL;

CREATE TABLE owned_idempotency (
    owner        TEXT NOT NULL,
    key          TEXT NOT NULL,
    fingerprint  TEXT NOT NULL,
    job_id       TEXT NOT NULL,
    created_at   REAL NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
INSERT INTO owned_idempotency SELECT '', key, fingerprint, job_id, created_at FROM idempotency;
DROP TABLE idempotency;
ALTER TABLE owned_idempotency RENAME TO idempotency;
CREATE INDEX idempotency_age ON idempotency (created_at);
CREATE INDEX idempotency_of_job ON idempotency (job_id);

CREATE TABLE spending (
    owner  TEXT NOT NULL,
    day    INTEGER NOT NULL,
    usd    REAL NOT NULL,
    PRIMARY KEY (owner, day)
) STRICT, WITHOUT ROWID;

CREATE TABLE open_jobs (
    owner       TEXT PRIMARY KEY,
    queued      INTEGER NOT NULL,
    processing  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO open_jobs SELECT
    '', count(*) FILTER (WHERE status = 'queued'), count(*) FILTER (WHERE status = 'processing')
    FROM jobs WHERE status <> 'completed';

CREATE TRIGGER job_comes AFTER INSERT ON jobs BEGIN
    INSERT INTO open_jobs VALUES (new.owner, new.status = 'queued', new.status = 'processing')
    ON CONFLICT (owner) DO UPDATE SET
        queued = queued + excluded.queued, processing = processing + excluded.processing;
END;
CREATE TRIGGER job_moves AFTER UPDATE OF status ON jobs WHEN new.status <> old.status BEGIN
    UPDATE open_jobs SET
        queued = queued + (new.status = 'queued') - (old.status = 'queued'),
        processing = processing + (new.status = 'processing') - (old.status = 'processing')
    WHERE owner = new.owner;
END;
CREATE TRIGGER job_goes AFTER DELETE ON jobs WHEN old.status IN ('queued', 'processing') BEGIN
    UPDATE open_jobs SET
        queued = queued - (old.status = 'queued'), processing = processing - (old.status = 'processing')
    WHERE owner = old.owner;
END;
"""

MIGRATIONS = (FIRST, OWNERS)
"""Append only: a file that has had one of them never has it again."""


def migrate(connection: apsw.Connection) -> None:
    """Bring the file up to date, all or nothing. Raises SchemaTooNew."""
    with connection:
        version = version_of(connection)
        if version > len(MIGRATIONS):
            raise SchemaTooNew(
                "the data directory was written by a newer version of overnight, and nothing in it was changed: "
                "start that version, or give this one another data directory"
            )
        for migration in MIGRATIONS[version:]:
            connection.execute(migration)
        if version < len(MIGRATIONS):
            connection.pragma("user_version", len(MIGRATIONS))


def version_of(connection: apsw.Connection) -> int:
    return int(connection.pragma("user_version"))
