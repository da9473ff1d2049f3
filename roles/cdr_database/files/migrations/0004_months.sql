-- The table by months. Nothing is copied here: the table that was there becomes the default
-- partition, with its rows, their ids and their transactions, so a reader's cursor stays true.
-- cdr_partitions(), which a timer calls, makes months and files in them what the default holds.
--
-- A month is one of UTC, in no session's zone, so that all agree on where a record belongs.

-- All of this takes no time. Rather than let live records wait behind a long query, it fails; converge again.
SET LOCAL lock_timeout = '5s';

ALTER TABLE cdr RENAME TO cdr_default;
DROP TRIGGER cdr_texts ON cdr_default;

ALTER INDEX cdr_record RENAME TO cdr_default_record;
ALTER INDEX cdr_cursor RENAME TO cdr_default_cursor;
ALTER INDEX cdr_linkedid RENAME TO cdr_default_linkedid;
ALTER INDEX cdr_start RENAME TO cdr_default_start;
ALTER INDEX cdr_pkey RENAME TO cdr_default_pkey;

-- The primary key (id) is each partition's own: one of the whole table would have to carry start,
-- and the sequence gives no id twice.
CREATE TABLE cdr (LIKE cdr_default INCLUDING DEFAULTS) PARTITION BY RANGE (start);
ALTER SEQUENCE cdr_id OWNED BY cdr.id;
COMMENT ON TABLE cdr IS 'Call detail records, written by cdr_pgsql; a call is all rows of one linkedid';
COMMENT ON TABLE cdr_default IS 'Call detail records of months that have no partition';

-- As before. The default's are taken over, not built.
CREATE UNIQUE INDEX cdr_record ON cdr (system_name, uniqueid, sequence, start);
CREATE INDEX cdr_cursor ON cdr (system_name, transaction_id, id) WHERE imported_at IS NULL;
CREATE INDEX cdr_linkedid ON cdr (linkedid);
CREATE INDEX cdr_start ON cdr (start);
CREATE TRIGGER cdr_texts BEFORE INSERT ON cdr FOR EACH ROW
    WHEN (current_setting('client_encoding') = 'LATIN1') EXECUTE FUNCTION cdr_texts();

ALTER TABLE cdr ATTACH PARTITION cdr_default DEFAULT;

REVOKE ALL ON cdr_default FROM asterisk, importer;
GRANT SELECT ON cdr, cdr_default TO exporter; -- the default's for the doctor
GRANT INSERT ON cdr TO asterisk;
GRANT SELECT, INSERT ON cdr TO importer;

CREATE VIEW cdr_months AS
    SELECT oid::regclass AS partition,
           to_date(relname, '"cdr_"YYYY_MM')::timestamp AT TIME ZONE 'UTC' AS begins,
           (to_date(relname, '"cdr_"YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' AS ends
    FROM pg_inherits JOIN pg_class ON oid = inhrelid
    WHERE inhparent = 'cdr'::regclass AND relname ~ '^cdr_[0-9]{4}_[0-9]{2}$';
COMMENT ON VIEW cdr_months IS 'The months that have a partition';
GRANT SELECT ON cdr_months TO exporter;

-- What lets a reader leave old months alone: every record that began before `before` was written by a
-- transaction below `transaction_id`. Whoever has read all of those finds nothing new there.
CREATE TABLE cdr_settled (
    before          timestamptz NOT NULL,
    transaction_id  xid8 NOT NULL
);
INSERT INTO cdr_settled VALUES ('-infinity', '0');
GRANT SELECT ON cdr_settled TO exporter;

-- A record that began before that comes all the same: a call of weeks, or a PBX whose clock is wrong.
-- Whoever sees the record sees this too.
CREATE FUNCTION cdr_late() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE cdr_settled SET before = NEW.start WHERE before > NEW.start;
    RETURN NULL;
END $$;

-- The exporter does not count what is imported.
CREATE TRIGGER cdr_late AFTER INSERT ON cdr FOR EACH ROW
    WHEN (NEW.imported_at IS NULL) EXECUTE FUNCTION cdr_late();

-- Give a month (its first day, in UTC) its partition, and file in it what the default has of it; return how many
-- records that are. Writers wait only for the end of it: a record that had been sent to the default when its month
-- came would be refused, so none may be on its way. The CHECK spares PostgreSQL a look at what it was made of.
CREATE FUNCTION cdr_add_month(month timestamp) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    begins timestamptz := month AT TIME ZONE 'UTC';
    ends timestamptz := (month + interval '1 month') AT TIME ZONE 'UTC';
    name text := to_char(month, '"cdr_"YYYY_MM');
    move text := format('WITH moved AS (DELETE FROM cdr_default WHERE start >= $1 AND start < $2 RETURNING *)'
                        ' INSERT INTO %I SELECT * FROM moved', name);
    moved bigint;
    late bigint;
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE cdr INCLUDING DEFAULTS INCLUDING INDEXES, PRIMARY KEY (id),'
                   ' CONSTRAINT month CHECK (start >= %L AND start < %L))', name, begins, ends);
    EXECUTE move USING begins, ends;
    GET DIAGNOSTICS moved = ROW_COUNT;
    LOCK TABLE cdr IN SHARE ROW EXCLUSIVE MODE;
    EXECUTE move USING begins, ends;
    GET DIAGNOSTICS late = ROW_COUNT;
    -- Not CREATE TABLE … PARTITION OF, which would lock out readers too.
    EXECUTE format('ALTER TABLE cdr ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, begins, ends);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT month', name);
    RETURN moved + late;
END $$;

-- Say that what began before `until`, the beginning of a month, has settled.
CREATE FUNCTION cdr_settle(until timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    partition regclass;
BEGIN
    IF until = (SELECT before FROM cdr_settled) THEN
        RETURN;
    END IF;
    -- Who was writing there has ended; who comes now waits, and then is late. Without waiting here, or a
    -- transaction that writes to two months could be chosen to end a deadlock.
    FOR partition IN SELECT m.partition FROM cdr_months m WHERE begins < until UNION ALL SELECT 'cdr_default' LOOP
        EXECUTE format('LOCK TABLE %s IN SHARE MODE NOWAIT', partition);
    END LOOP;
    -- Its snapshot is younger than the locks: all who have written there are below its xmax.
    UPDATE cdr_settled SET before = until, transaction_id = pg_snapshot_xmax(pg_current_snapshot());
END $$;

-- Keep the months in order; each step is a transaction of its own. What does not get a lock within 3 s ends
-- the call, to be called again: nobody waits longer behind it.
-- retention_months: how many months are kept beside the current one, 0 for all.
CREATE PROCEDURE cdr_partitions(retention_months integer) LANGUAGE plpgsql AS $$
DECLARE
    this_month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    -- What began before any Asterisk was is a clock's error, and stays in the default.
    oldest timestamptz := '2000-01-01 00:00:00+00';
    keep_from timestamptz := '-infinity';
    month timestamp;
    newest timestamptz;
    records bigint;
    partition regclass;
    dropped text;
BEGIN
    IF retention_months < 0 THEN
        RAISE EXCEPTION 'cdr_partitions(%): expected 0 to keep all months, or how many to keep', retention_months;
    END IF;
    PERFORM set_config('lock_timeout', '3s', false);

    IF retention_months > 0 THEN
        keep_from := (this_month - make_interval(months => retention_months)) AT TIME ZONE 'UTC';
        oldest := '-infinity';
        FOR partition IN SELECT m.partition FROM cdr_months m WHERE ends <= keep_from ORDER BY ends LOOP
            dropped := format('%s (%s)', partition, pg_size_pretty(pg_total_relation_size(partition)));
            EXECUTE format('DROP TABLE %s', partition);
            COMMIT;
            RAISE NOTICE 'dropped %: older than % months', dropped, retention_months;
        END LOOP;
    END IF;

    FOR month IN SELECT generate_series(this_month, this_month + interval '2 months', interval '1 month') LOOP
        CONTINUE WHEN EXISTS (SELECT FROM cdr_months WHERE begins = month AT TIME ZONE 'UTC');
        PERFORM cdr_add_month(month);
        COMMIT;
    END LOOP;

    -- What the default has of the months before, the newest first, by its index.
    newest := this_month AT TIME ZONE 'UTC';
    LOOP
        SELECT max(start) INTO newest FROM cdr_default WHERE start < newest AND start >= oldest;
        EXIT WHEN newest IS NULL;
        IF newest < keep_from THEN
            DELETE FROM cdr_default WHERE start < keep_from;
            GET DIAGNOSTICS records = ROW_COUNT;
            COMMIT;
            RAISE NOTICE 'deleted % records that began before %', records, keep_from;
            EXIT;
        END IF;
        month := date_trunc('month', newest AT TIME ZONE 'UTC');
        newest := month AT TIME ZONE 'UTC';
        records := cdr_add_month(month);
        COMMIT;
        RAISE NOTICE 'filed % records in %', records, to_char(month, '"cdr_"YYYY_MM');
    END LOOP;

    -- A week after its end, hardly any call of a month is still going on.
    PERFORM cdr_settle(date_trunc('month', (now() - interval '7 days') AT TIME ZONE 'UTC') AT TIME ZONE 'UTC');
    COMMIT;
END $$;
