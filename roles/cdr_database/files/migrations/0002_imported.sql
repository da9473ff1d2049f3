-- Records of the past, brought in by `asterisk-exporter cdr import`.

-- NULL: Asterisk wrote the record when the call was over. cdr_pgsql fills the columns that it
-- knows a value for and leaves out every other one that may be NULL. The exporter counts what
-- happens, so it does not count imported records.
ALTER TABLE cdr ADD COLUMN imported_at timestamptz;

-- The exporter's cursor, without the imported records: it would walk through millions of them at
-- each poll until the next call ends. Writers wait while it is built, about a second a million.
DROP INDEX cdr_cursor;
CREATE INDEX cdr_cursor ON cdr (system_name, transaction_id, id) WHERE imported_at IS NULL;

-- ON CONFLICT needs SELECT; TEMPORARY is for the table that records arrive in.
GRANT SELECT, INSERT ON cdr TO importer;
GRANT USAGE ON SEQUENCE cdr_id TO importer;
GRANT TEMPORARY ON DATABASE asterisk TO importer;
