"""Measure against the bars: ``./appliance bench [NAME...]``, or this file with .venv's Python.

To add one: a module in this folder with ``def bench(context: Context) -> Iterable[Row]``; its file
name is its NAME, and the first line of its docstring says what it measures. ``common.py`` has
Context, Row and the stopwatch; ``pbx.py`` starts an Asterisk of its own in the lab machine. Peers
are measured in the same run, in turn with ours, because machines are shared and noisy.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "exporter"))

from common import Context, NoLabError, Row, as_table  # noqa: E402 - after the path is set

from asterisk_exporter.ami.errors import AmiError  # noqa: E402


def benches() -> dict[str, Callable[[Context], Iterable[Row]]]:
    """Return the function ``bench`` of every module that has one, by the module's name."""
    found = {}
    for path in sorted(HERE.glob("*.py")):
        if re.search(r"^def bench\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            found[path.stem] = path.stem
    return {name: importlib.import_module(name).bench for name in found}


def lab_address() -> str:
    """Return the lab machine's address, as the lab's SSH configuration has it."""
    ssh = REPOSITORY / ".lab/ssh/config"
    text = ssh.read_text(encoding="utf-8") if ssh.exists() else ""
    found = re.search(r"^Host pbx1\n(?:[ \t].*\n)*?[ \t]*HostName (\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def main() -> int:
    """Run the benches. Returns 1 when a bar is missed, 2 when one cannot be measured."""
    available = benches()
    parser = argparse.ArgumentParser(description="Measure against the bars.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(available))
    parser.add_argument(
        "--exec",
        dest="prefix",
        type=shlex.split,
        default=[str(REPOSITORY / "appliance"), "exec", "pbx1", "--"],
        help="what runs a command on the machine with Asterisk (default: ./appliance exec pbx1 --)",
    )
    parser.add_argument("--address", default=lab_address(), help="the address of that machine")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(available))
    if unknown:
        parser.error(f"there is no bench {', '.join(unknown)}; there is: {', '.join(available)}")
    context = Context(tuple(arguments.prefix), arguments.address)
    rows: list[Row] = []
    for name in arguments.names or available:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        try:
            rows += available[name](context)
        except (NoLabError, AmiError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
    print(as_table(rows))
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
