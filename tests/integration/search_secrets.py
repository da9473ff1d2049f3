"""Runs on the lab machine: says what holds a secret, and what shows one.

Standard input: JSON with secrets (name -> value), places and commands. Standard output: JSON with
files (path -> mode, owner, names of secrets) and shown (command -> names of secrets).
"""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

REQUEST = json.load(sys.stdin)
#: A voicemail PIN is a number like many others: looked for in settings only, and as a whole.
NUMBERS = {
    name: re.compile(rb"(?<!\d)%b(?!\d)" % value.encode())
    for name, value in REQUEST["secrets"].items()
    if value.isdigit()
}
TEXTS = {n: v.encode() for n, v in REQUEST["secrets"].items() if n not in NUMBERS}
SETTINGS = ("/etc/", "/run/credentials/", "/usr/local/")


def texts(content: bytes) -> list[str]:
    return [name for name, value in TEXTS.items() if value in content]


def numbers(content: bytes) -> list[str]:
    return [name for name, pattern in NUMBERS.items() if pattern.search(content)]


def held(path: Path) -> list[str]:
    content = path.read_bytes()
    return texts(content) + (numbers(content) if str(path).startswith(SETTINGS) else [])


def output(*command: str, stdin: str = "") -> bytes:
    return subprocess.run(command, input=stdin.encode(), capture_output=True, check=False).stdout


def files() -> dict[str, tuple[str, str, list[str]]]:
    """Search the places; grep reads a database or a log faster than we do."""
    grep = ["grep", "-rlasF", "--devices=skip", "--file=-", *REQUEST["places"]]
    found = os.fsdecode(output(*grep, stdin="\n".join(REQUEST["secrets"].values())))
    return {
        str(path): (
            format(stat.S_IMODE(path.stat().st_mode), "o"),
            f"{path.owner()}:{path.group()}",
            names,
        )
        for path in map(Path, found.splitlines())
        if path.exists() and (names := held(path))
    }


def shown() -> dict[str, list[str]]:
    outputs = {command: output("sh", "-c", command) for command in REQUEST["commands"]}
    assert all(outputs.values()), {command: len(said) for command, said in outputs.items()}
    return {command: names for command, said in outputs.items() if (names := texts(said))}


json.dump({"files": files(), "shown": shown()}, sys.stdout)
