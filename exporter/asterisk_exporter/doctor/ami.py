"""The links that are our AMI logins: whether each is let in, and what each may do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Callable

from asterisk_exporter.ami.errors import AmiError, LoginRejectedError
from asterisk_exporter.collectors.base import label
from asterisk_exporter.config import ConfigError
from asterisk_exporter.doctor.accounts import (
    Account,
    Session,
    User,
    accounts,
    ask_user,
    control,
    events,
    exporter,
    outcome,
    source,
)
from asterisk_exporter.doctor.acl import allowed, is_open, lets_in
from asterisk_exporter.doctor.finding import (
    Finding,
    critical,
    listed,
    not_looked_at,
    not_set_up,
    ok,
    some,
    warning,
)
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.doctor.sockets import ami_beyond_loopback

#: Of what a login may run and nobody here sends, what is worst: each of these is a shell or a call.
_WORST = ("Command", "Originate", "UpdateConfig", "MixMonitor", "ModuleLoad", "DBPut", "Redirect")
_RELOAD = 'asterisk -rx "manager reload"'


def login(pbx: Pbx) -> Iterator[Finding]:
    """Log in as the exporter does."""
    account = exporter(pbx.settings, pbx.path)
    yield from _let_in(pbx, account, partial(_answers, pbx))


def events_login(pbx: Pbx) -> Iterator[Finding]:
    """Log in as what receives events."""
    account = events(pbx.settings, pbx.path)
    if account is None:
        yield not_set_up("no events are received (asterisk_exporter_events)")
    else:
        yield from _let_in_too(pbx, account)


def control_login(pbx: Pbx) -> Iterator[Finding]:
    """Log in as asterisk-ctl does."""
    account = control(pbx.settings, pbx.path)
    if account is None:
        yield not_set_up("asterisk-ctl has no login (asterisk_exporter_control)")
    else:
        yield from _let_in_too(pbx, account)


def _answers(pbx: Pbx) -> str:
    settings, status = pbx.replies["CoreSettings"], pbx.replies["CoreStatus"]
    version = "" if settings.error else label(settings.message().get("AsteriskVersion"))
    return f"; Asterisk {version} answers in {status.seconds * 1000:.1f} ms"


def _let_in_too(pbx: Pbx, account: Account) -> Iterator[Finding]:
    """Log in with another login than the exporter's, unless nobody can."""
    first = outcome(pbx, exporter(pbx.settings, pbx.path))
    if isinstance(first, AmiError) and not isinstance(first, LoginRejectedError):
        yield not_looked_at("AMI lets nobody in; see AMI login")
    else:
        yield from _let_in(pbx, account, lambda: "")


def _let_in(pbx: Pbx, account: Account, more: Callable[[], str]) -> Iterator[Finding]:
    found = outcome(pbx, account)
    if isinstance(found, Session):
        yield ok(f"{account.username} is let in{more()}")
    elif isinstance(found, ConfigError):
        role = f"Converge with the role asterisk_exporter ({account.variable})."
        yield _bad(account)(f"{found} {account.loss.capitalize()}.", role)
    elif not isinstance(found, LoginRejectedError):
        yield critical(str(found), "")
    elif pbx.has_console:
        ours = pbx.settings.ami
        known = ask_user(pbx, account.username)
        yield judge_refused(account, known, source(ours.host, ours.port))
    else:
        yield _bad(account)(str(found), f"Compare with {account.variable} in the inventory.")


def _bad(account: Account) -> Callable[[str, str], Finding]:
    return critical if account.serious else warning


def judge_refused(account: Account, known: User | None, address: str) -> Finding:
    """Say why Asterisk refused a login, which it does not tell: user, address or secret."""
    name, bad = account.username, _bad(account)
    if known is None:
        return bad(
            f"Asterisk has no AMI user {name!r}: {account.loss}",
            f"Add it to pbx_manager_users and converge with the role pbx; or write [{name}] into "
            f"manager.conf and run {_RELOAD}.",
        )
    if known.acl is not None and not lets_in(known.acl, address):
        return bad(
            f"the ACL of AMI user {name!r} keeps us out: we come from {address}, and it lets in "
            f"{allowed(known.acl)}. {account.loss.capitalize()}",
            f"Add {address} to permit of {name} in pbx_manager_users (permit in manager.conf); "
            f"{_RELOAD}",
        )
    acl = ", or its ACL does not let us in" if known.has_acl and known.acl is None else ""
    return bad(
        f"Asterisk refuses the secret of AMI user {name!r}{acl}: {account.loss}",
        f"Converge with the roles pbx and asterisk_exporter; or set {account.variable} to the "
        f"secret that manager.conf has for {name}.",
    )


def permissions(pbx: Pbx) -> Iterator[Finding]:
    """Look at what each login may do, and may not need to."""
    fine = []
    for account in accounts(pbx):
        session = outcome(pbx, account)
        if not isinstance(session, Session):
            continue
        known = ask_user(pbx, account.username) if pbx.has_console else None
        absent = [
            name
            for name in sorted(account.actions - set(session.commands))
            if not pbx.has_console or _is_loaded(pbx, name)
        ]
        said = [
            *judge_missing(account, absent, known),
            *judge_excess(account, session, known),
        ]
        yield from said
        if not said:
            fine.append(granted(account))
    if fine:
        yield ok("; ".join(fine))


def _is_loaded(pbx: Pbx, action: str) -> bool:
    """Say whether Asterisk has an action at all: the module that brings it need not be there."""
    return pbx.asterisk(f"manager show command {action}").strip() != ""


def granted(account: Account) -> str:
    """Say what a login may do, that has just what it needs."""
    read, write = ",".join(sorted(account.read)), ",".join(sorted(account.write))
    return f"{account.username}: read = {read or 'none'}, write = {write or 'none'}"


def judge_missing(account: Account, absent: Sequence[str], known: User | None) -> Iterator[Finding]:
    """Judge what a login cannot do. ``absent``: actions that Asterisk has and it may not run."""
    bad = _bad(account)
    action = f"Set {_line(account)} in pbx_manager_users (manager.conf); {_RELOAD}"
    if absent:
        yield bad(
            f"AMI user {account.username!r} may not run {listed(absent, 3)}: {account.loss}",
            action,
        )
    if known is not None and "all" not in known.read and account.read - known.read:
        lacking = ", ".join(sorted(account.read - known.read))
        yield bad(
            f"AMI user {account.username!r} gets no events of {lacking}: {account.loss}", action
        )


def judge_excess(account: Account, session: Session, known: User | None) -> Iterator[Finding]:
    """Judge what a login may do and nobody here needs: who steals its secret may too."""
    excess = [
        name
        for name, classes in session.commands.items()
        if classes and not classes & account.write
    ]
    action = f"Take it away: {_line(account)} in pbx_manager_users (manager.conf); {_RELOAD}"
    if excess:
        excess.sort(key=lambda name: (name not in _WORST, name))
        yield warning(
            f"AMI user {account.username!r} may do more than it needs: run {listed(excess, 3)}",
            action,
        )
    more = known.read - account.read if known is not None else frozenset()
    if more:
        yield warning(
            f"AMI user {account.username!r} may receive events that it does not need: "
            f"{', '.join(sorted(more))}",
            action,
        )


def _line(account: Account) -> str:
    read, write = ",".join(sorted(account.read)), ",".join(sorted(account.write))
    return f"read = {read} and write = {write} for {account.username}"


def user_names(text: str) -> list[str]:
    """Parse ``manager show users``."""
    lines = [line.strip() for line in text.splitlines()]
    rules = [n for n, line in enumerate(lines) if line and not line.strip("-")]
    if len(rules) < 2:
        return []
    return [name for name in lines[rules[0] + 1 : rules[-1]] if name]


def acl(pbx: Pbx) -> Iterator[Finding]:
    """Look at where from each login of this Asterisk is let in."""
    if not pbx.has_console:
        yield not_looked_at("there is no console of that Asterisk here (asterisk -r)")
        return
    names = user_names(pbx.asterisk("manager show users"))
    known = [found for name in names if (found := ask_user(pbx, name)) is not None]
    yield from judge_acls(known, ami_beyond_loopback(pbx))


def judge_acls(users: Iterable[User], exposed: bool) -> Iterator[Finding]:
    """Judge the ACLs. ``exposed``: others than this machine reach AMI."""
    bare: list[str] = []
    guarded: dict[str, list[str]] = {}
    for one in users:
        if not one.has_acl or (one.acl is not None and is_open(one.acl)):
            bare.append(one.name)
        else:
            networks = "some addresses" if one.acl is None else allowed(one.acl)
            guarded.setdefault(networks, []).append(one.name)
    if exposed:
        yield from some([_without_acl(name) for name in bare])
    said = [f"{', '.join(names)} from {networks} only" for networks, names in guarded.items()]
    if bare and not exposed:
        said.append(f"{', '.join(bare)} from anywhere, but AMI is on loopback")
    if said:
        yield ok("; ".join(said))


def _without_acl(name: str) -> Finding:
    return warning(
        f"AMI user {name!r} may log in from anywhere, and AMI listens beyond loopback",
        f"Name the networks: permit of {name} in pbx_manager_users (deny = 0.0.0.0/0, "
        f"deny = ::/0 and permit in manager.conf); {_RELOAD}",
    )
