"""site.yml again: on the converged machine, in check mode, with bad inventory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lab import ROOT, Lab


def recap(output: str) -> dict[str, int]:
    line = re.search(r"^pbx1\s*:.*$", output, re.MULTILINE)
    assert line, output
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line[0])}


@pytest.mark.parametrize(
    "arguments",
    [("site.yml",), ("playbooks/site.yml", "--check", "--diff")],
    ids=["converge", "check mode"],
)
def test_converged_machine_needs_nothing(lab: Lab, arguments: tuple[str, ...]) -> None:
    result = lab.playbook(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert recap(result.stdout)["changed"] == 0, result.stdout


BAD_INVENTORY = [
    ("pbx_queues=[{name: support, strategy: roundrobin, members: []}]", "roundrobin"),
    ("pbx_phones=[{extension: '101', name: A}, {extension: '101', name: B}]", "101"),
    ("pbx_inbound_routes=[{did: any, to: 'queue:nobody'}]", "queue:nobody"),
    ("pbx_phones=[{extension: '101', name: A, secret: Xsecret}]", "pbx_phones[0].secret"),
    ("pbx_queues=[{name: 'sup;port', strategy: ringall, members: []}]", "sup;port"),
    ("asterisk_exporter_listen_port=99999", "99999"),
    ("asterisk_exporter_listen_port=metrics", "metrics"),
    ("cdr_database_port=postgres", "postgres"),
    ("grafana_prometheus_url=localhost:9090", "localhost:9090"),
    ("asterisk_exporter_notifier_url=http://crm.example.com/missed", "http://crm.example.com"),
    ("cdr_database_asterisk_password=tooshort", "cdr_database_asterisk_password"),
]


@pytest.mark.parametrize(("variable", "named"), BAD_INVENTORY, ids=[n for _, n in BAD_INVENTORY])
def test_bad_inventory_stops_before_anything_is_changed(
    lab: Lab, variable: str, named: str
) -> None:
    name, _, value = variable.partition("=")
    result = lab.playbook("site.yml", "-e", f"{{{name}: {value}}}")
    assert result.returncode != 0
    assert recap(result.stdout)["changed"] == 0
    assert name in result.stdout
    assert named in result.stdout
    secrets = [p.read_text().strip() for p in Path(ROOT / ".lab/secrets").rglob("*") if p.is_file()]
    given = [value] if "password" in name else ["Xsecret"]
    assert [s[:3] + "…" for s in secrets + given if s in result.stdout + result.stderr] == []
