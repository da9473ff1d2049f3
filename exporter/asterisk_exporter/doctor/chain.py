"""The chain: each link in the order in which they depend on each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Callable

from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.config import ConfigError
from asterisk_exporter.doctor import (
    ami,
    call_records,
    cdr_backends,
    cdr_database,
    cdr_months,
    clocks,
    dialplan,
    firewall,
    journals,
    master_csv,
    metrics,
    prometheus,
    queue_log,
    queues,
    realtime,
    routing,
    rules,
    secret_files,
    services,
    sockets,
    state,
    tls,
    trunks,
)
from asterisk_exporter.doctor.finding import Examined, Finding, critical, not_looked_at
from asterisk_exporter.doctor.pbx import LookError, Pbx
from asterisk_exporter.health import Status
from asterisk_exporter.journal.runner import SourceError
from asterisk_exporter.journal.store import JournalStoreError


@dataclass(frozen=True)
class Link:
    """One link: its name for people and programs, and how to look at it.

    ``needs``: links that come before; while one of them is broken this one cannot tell anything.
    ``look`` may raise what ``Pbx`` does: the link is broken then, and the error says why.
    """

    name: str
    look: Callable[[Pbx], Iterable[Finding]]
    needs: tuple[str, ...] = ()


_TO_AMI = ("Asterisk service", "AMI socket", "firewall to AMI")
LINKS: tuple[Link, ...] = (
    Link("Asterisk service", services.asterisk),
    Link("other services", services.others),
    Link("AMI socket", sockets.ami, ("Asterisk service",)),
    Link("firewall to AMI", firewall.to_ami, ("Asterisk service", "AMI socket")),
    Link("firewall to metrics", firewall.to_metrics),
    Link("secret files", secret_files.secret_files),
    Link("AMI certificate", tls.certificate, _TO_AMI),
    Link("AMI login", ami.login, (*_TO_AMI, "AMI certificate")),
    Link("AMI events login", ami.events_login, (*_TO_AMI, "AMI certificate")),
    Link("AMI control login", ami.control_login, (*_TO_AMI, "AMI certificate")),
    Link("AMI ACL", ami.acl, ("Asterisk service",)),
    Link("AMI permissions", ami.permissions, ("AMI login",)),
    Link("exporter /metrics", metrics.metrics),
    Link("queue_log", queue_log.look),
    Link("CDR backends", cdr_backends.look, ("Asterisk service",)),
    Link("Master.csv", master_csv.look, ("Asterisk service",)),
    Link("CDR database", cdr_database.look),
    Link("CDR grants", cdr_database.grants, ("CDR database",)),
    Link("CDR months", cdr_months.look, ("CDR database", "CDR grants")),
    Link("call records", call_records.look, ("Asterisk service", "CDR grants")),
    Link("exporter's state", state.look),
    Link("journals", journals.look, ("exporter /metrics",)),
    Link("realtime", realtime.look),
    Link("queue members", queues.members, needs=("AMI login",)),
    Link("service levels", queues.service_levels, needs=("AMI login",)),
    Link("trunks", trunks.look, needs=("AMI login",)),
    Link("dialplan contexts", dialplan.contexts, ("AMI login",)),
    Link("AGI script", routing.script, ("Asterisk service",)),
    Link("FastAGI", routing.fastagi, ("Asterisk service",)),
    Link("CRM", routing.crm, ("Asterisk service",)),
    Link("Prometheus", prometheus.server),
    Link("scraping", prometheus.scraping, ("Prometheus",)),
    Link("rules", rules.look, ("Prometheus",)),
    Link("Alertmanager", prometheus.alertmanager, ("Prometheus",)),
    Link("clocks", clocks.look),
)

#: What is wrong with the PBX, not with this program. Each says what happened and what to do.
EXPECTED_ERRORS = (AmiError, ConfigError, JournalStoreError, LookError, SourceError)


def examine(pbx: Pbx, links: Sequence[Link] = LINKS) -> Iterator[Examined]:
    """Look at each link and yield what was found, as soon as it is."""
    broken: set[str] = set()
    for link in links:
        causes = [name for name in link.needs if name in broken]
        examined = _skipped(link, causes) if causes else _look(link, pbx)
        if causes or examined.status is Status.CRITICAL:
            broken.add(link.name)
        yield examined


def _skipped(link: Link, causes: Sequence[str]) -> Examined:
    return Examined(link.name, (not_looked_at(f"needs {', '.join(causes)}"),))


def _look(link: Link, pbx: Pbx) -> Examined:
    findings: list[Finding] = []
    try:
        findings.extend(link.look(pbx))
    except EXPECTED_ERRORS as error:
        action = error.action if isinstance(error, LookError) else ""
        findings.append(critical(str(error), action))
    return Examined(link.name, tuple(sorted(findings, key=_rank)))


def _rank(finding: Finding) -> int:
    return 1 if finding.status is None else -int(finding.status)
