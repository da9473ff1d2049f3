-- Call detail records: one row for each record that Asterisk writes.
--
-- Never edit a migration that has left this repository: add the next one. Each is
-- applied in one transaction together with its row in schema_migrations, so it must
-- not contain BEGIN, COMMIT or anything that cannot run in a transaction.

-- Not an identity column: cdr_pgsql takes every NOT NULL column without an entry in
-- pg_attrdef for one that it must fill, writes '' into it and loses every record (run on
-- Asterisk 22.10). A default from a sequence has such an entry.
CREATE SEQUENCE cdr_id;

CREATE TABLE cdr (
    id              bigint PRIMARY KEY DEFAULT nextval('cdr_id'),
    -- The transaction that wrote the row. A reader with a cursor must not trust the order
    -- of id: several Asterisk servers write here, each takes its id when its INSERT runs
    -- and becomes visible when it commits, so a smaller id can appear after a larger one
    -- was read, and a cursor on id alone would skip that call for ever. The exporter reads
    -- only rows with transaction_id < pg_snapshot_xmin(pg_current_snapshot()): everything
    -- below that is settled, nothing below it can appear later; its cursor is
    -- (transaction_id, id).
    transaction_id  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- Which PBX wrote it. cdr_pgsql.conf sends it as the connection's application name.
    system_name     text NOT NULL DEFAULT current_setting('application_name'),
    accountcode     text,
    src             text,
    dst             text,
    dcontext        text,
    clid            text,
    channel         text,
    dstchannel      text,
    lastapp         text,
    lastdata        text,
    start           timestamptz NOT NULL,
    answer          timestamptz, -- NULL: never answered
    "end"           timestamptz,
    duration        integer, -- seconds, start to end
    billsec         integer, -- seconds, answer to end
    disposition     text,
    amaflags        text,
    uniqueid        text,
    userfield       text,
    peeraccount     text,
    linkedid        text,
    sequence        bigint
);

ALTER SEQUENCE cdr_id OWNED BY cdr.id;

COMMENT ON TABLE cdr IS 'Call detail records, written by cdr_pgsql; a call is all rows of one linkedid';

-- One record is written once: sequence restarts with Asterisk, so start belongs to the key.
CREATE UNIQUE INDEX cdr_record ON cdr (system_name, uniqueid, sequence, start);
-- The exporter's cursor.
CREATE INDEX cdr_cursor ON cdr (system_name, transaction_id, id);
CREATE INDEX cdr_linkedid ON cdr (linkedid);
CREATE INDEX cdr_start ON cdr (start);

-- cdr_pgsql reads the columns from the system catalogue, which needs no grant.
GRANT INSERT ON cdr TO asterisk;
GRANT USAGE ON SEQUENCE cdr_id TO asterisk;
GRANT SELECT ON cdr TO exporter;
