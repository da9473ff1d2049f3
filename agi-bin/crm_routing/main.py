"""The command line. Without options: an AGI script, started by Asterisk for one call."""

from __future__ import annotations

import os
import sys

from crm_routing import settings as settings_file
from crm_routing.settings import Settings, SettingsError

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes 4 ms, and the script starts once a call
    from typing import Callable


def main(arguments: list[str]) -> int:
    """Run. Returns 0, or 1 where the settings cannot be used."""
    try:
        if arguments and arguments[0].startswith("--"):
            return _with_options(arguments)
        return _script(settings_file.load(), *(*arguments, "", "")[:2])
    except SettingsError as error:
        # without ROUTE_RESULT the dialplan knows that nobody answered
        _syslog(3, str(error))
        print(f"crm_route: {error}", file=sys.stderr)
        return 1


def _with_options(arguments: list[str]) -> int:
    import argparse  # noqa: PLC0415 - the script has no options, and it takes milliseconds

    parser = argparse.ArgumentParser(prog="crm_route.py", description=__doc__)
    parser.add_argument("--settings", metavar="FILE", help=f"default: {settings_file.PATH}")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--listen", metavar="ADDRESS:PORT", help="be a FastAGI server")
    what.add_argument(
        "--ask", nargs=2, metavar=("CALLER", "NUMBER"), help="ask the CRM and print what it says"
    )
    options = parser.parse_args(arguments)
    settings = settings_file.load(options.settings)
    if options.ask:
        from crm_routing.ask import ask  # noqa: PLC0415

        return ask(settings, *options.ask)
    from crm_routing.server import serve  # noqa: PLC0415

    address, _, port = options.listen.rpartition(":")
    if not port.isdecimal():
        parser.error("--listen takes ADDRESS:PORT, such as 127.0.0.1:4573")
    return serve(settings, address.strip("[]"), int(port))


def _script(settings: Settings, number: str, who: str) -> int:
    """Serve the call to ``number`` on standard input and output.

    SIGHUP, which says that the caller hung up, ends it: there is nothing to do any more.
    """
    from crm_routing.agi import AGIError, Lines, SafeAgi  # noqa: PLC0415
    from crm_routing.breaker import FileBreaker  # noqa: PLC0415
    from crm_routing.route import Router, handle  # noqa: PLC0415

    breaker = FileBreaker(settings.state_file, settings.failures, settings.retry_seconds)
    router = Router(settings, breaker, _syslog)
    try:
        agi = SafeAgi(Lines(lambda size: os.read(0, size)), lambda data: os.write(1, data))
        handle(agi, router, _syslog, number, who)
    except AGIError as error:
        _syslog(6, f"ended: {error}")
        return 0
    if breaker.is_open and breaker.due():
        _leave_behind(lambda: router.try_again(number))
    return 0


def _leave_behind(work: Callable[[], None]) -> None:
    """Do something in a process of its own, for which nobody waits."""
    if os.fork():
        return
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(nowhere, handle)
        work()
    finally:
        os._exit(0)


def _syslog(level: int, text: str) -> None:
    import syslog  # noqa: PLC0415

    syslog.openlog("crm_route", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(level, text)
