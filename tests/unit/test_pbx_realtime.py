"""Upstream's schema is taken apart as it was put together; what realtime needs is asked for."""

import pytest
from scripts import load

migrations = load("roles/pbx/filter_plugins/pbx_realtime.py").migrations

SCHEMA = """\
BEGIN;

CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL
);

-- Running upgrade  -> 4da0c5f79a9c

CREATE TABLE queues (
    name VARCHAR(128) NOT NULL
);

INSERT INTO alembic_version (version_num) VALUES ('4da0c5f79a9c');

-- Running upgrade 4da0c5f79a9c -> 28887f25a46f

ALTER TABLE queues ADD COLUMN strategy VARCHAR(20);

UPDATE alembic_version SET version_num='28887f25a46f' WHERE version_num = '4da0c5f79a9c';

COMMIT;

"""


def test_each_migration_with_its_revision_and_without_the_transaction():
    first, second = migrations(SCHEMA)
    assert [first["revision"], second["revision"]] == ["4da0c5f79a9c", "28887f25a46f"]
    assert first["sql"].startswith("CREATE TABLE queues (")
    assert first["sql"].endswith("VALUES ('4da0c5f79a9c');")
    assert second["sql"].startswith("ALTER TABLE queues")
    assert second["sql"].endswith("WHERE version_num = '4da0c5f79a9c';")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>not found</html>",
        SCHEMA.replace("4da0c5f79a9c -> ", "ffffffffffff -> "),
        SCHEMA[SCHEMA.index("ALTER") - 60 :],
    ],
    ids=["nothing", "a page", "a gap", "no beginning"],
)
def test_what_is_no_chain_is_refused(text):
    with pytest.raises(ValueError, match="no chain of migrations"):
        migrations(text)
