-- A restored database goes on counting where the old one was.
--
-- cdr.transaction_id orders the records for the exporter's cursor, and another cluster begins its
-- transaction ids anew: without more, what is written after a restore would be below the cursor, or
-- among the records that were restored. So a cluster's own ids are shifted by whole epochs (2^32)
-- above all that the database has seen, and an exporter finds its place again, since the cursor still
-- means what it meant. A whole epoch, because cursors may be ahead of what the backup has.

-- The clusters that this database has lived in. The last one is that whose ids are written now.
CREATE TABLE cdr_cluster (
    begins    bigint PRIMARY KEY, -- what is added to this cluster's own transaction ids
    system    text NOT NULL,      -- system_identifier of the cluster
    database  oid NOT NULL,       -- of this database there
    since     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cdr_cluster IS 'The clusters that this database has lived in; see cdr_continue()';
GRANT SELECT ON cdr_cluster TO exporter;

-- A transaction id of this cluster, as cdr.transaction_id has it.
CREATE FUNCTION cdr_transaction(given xid8) RETURNS xid8 LANGUAGE sql STABLE AS $$
    SELECT (given::text::bigint + coalesce((SELECT max(begins) FROM cdr_cluster), 0))::text::xid8
$$;

-- The row of cdr_cluster that is this cluster's; none when the database was restored or moved and
-- cdr_continue() was not called.
CREATE VIEW cdr_here AS
    SELECT begins FROM cdr_cluster, pg_control_system() AS here
    WHERE begins = (SELECT max(begins) FROM cdr_cluster) AND system = here.system_identifier::text
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
GRANT SELECT ON cdr_here TO exporter;

-- Called by the role at each converge, and after a restore before anything is written: does nothing
-- where the database is still in its cluster.
CREATE FUNCTION cdr_continue() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    highest bigint;
BEGIN
    IF EXISTS (SELECT FROM cdr_here) THEN
        RETURN;
    END IF;
    SELECT greatest((SELECT transaction_id::text::bigint FROM cdr ORDER BY transaction_id DESC LIMIT 1),
                    (SELECT max(begins) FROM cdr_cluster)) INTO highest;
    INSERT INTO cdr_cluster (begins, system, database)
    SELECT CASE
               WHEN NOT EXISTS (SELECT FROM cdr_cluster)
                    AND coalesce(highest, 0) < pg_snapshot_xmax(pg_current_snapshot())::text::bigint THEN 0
               ELSE ((highest >> 32) + 1) << 32
           END,
           system_identifier::text,
           (SELECT oid FROM pg_database WHERE datname = current_database())
    FROM pg_control_system();
    -- A constant, since a function would cost an import of millions of records as many calls.
    EXECUTE format('ALTER TABLE cdr ALTER COLUMN transaction_id SET DEFAULT '
                   '(pg_current_xact_id()::text::bigint + %s)::text::xid8',
                   (SELECT max(begins) FROM cdr_cluster));
END $$;
REVOKE EXECUTE ON FUNCTION cdr_continue() FROM PUBLIC;

-- As it was, in the ids that the records carry.
CREATE OR REPLACE FUNCTION cdr_settle(until timestamptz) RETURNS void LANGUAGE plpgsql AS $$
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
    UPDATE cdr_settled SET before = until, transaction_id = cdr_transaction(pg_snapshot_xmax(pg_current_snapshot()));
END $$;
