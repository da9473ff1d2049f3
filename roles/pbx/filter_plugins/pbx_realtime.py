"""Filters for realtime.

Upstream releases Asterisk with what its alembic migrations are in SQL, one after another
(contrib/realtime/postgresql/postgresql_config.sql, the output of ``alembic upgrade head --sql``).
"""

from __future__ import annotations

import re
from typing import Any

HEADING = re.compile(r"^-- Running upgrade (\w*) -> (\w+)$", re.MULTILINE)


def migrations(text: str) -> list[dict[str, str]]:
    """Split upstream's SQL; each migration has ``revision`` and ``sql``.

    The transaction around all of them and alembic's own table are left to the caller. Raises
    ValueError where the text is no such chain.
    """
    parts = HEADING.split(text)
    chain = list(zip(parts[1::3], parts[2::3], parts[3::3]))
    revisions = [revision for _, revision, _ in chain]
    if not chain or [previous for previous, _, _ in chain] != ["", *revisions[:-1]]:
        raise ValueError(
            "this is not postgresql_config.sql of a release of Asterisk: it has no chain of"
            " migrations (-- Running upgrade A -> B)"
        )
    return [
        {"revision": revision, "sql": re.sub(r"\s*^COMMIT;\s*\Z", "", sql, flags=re.M).strip()}
        for _, revision, sql in chain
    ]


class FilterModule:
    """Filters of the role pbx."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"pbx_realtime_migrations": migrations}
