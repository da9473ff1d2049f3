"""``python -m asterisk_exporter`` is ``asterisk-exporter``."""

from __future__ import annotations

from asterisk_exporter.cli import main

main()
