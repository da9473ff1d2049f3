#!/usr/bin/env python3
"""Write the reference of role variables from roles/*/meta/argument_specs.yml.

Writes docs/variables.md, and in README.md and each roles/*/README.md the block between the markers
``<!-- variables:begin -->`` and ``<!-- variables:end -->``. With --check nothing is written
and the exit status is 1 when a file is not what it would be.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

BEGIN = "<!-- variables:begin -->"
END = "<!-- variables:end -->"
HEADER = """\
# Variables of the roles

Made by `docs/generate_variables.py` from `roles/*/meta/argument_specs.yml`; edit there. What each
default is for stands above it in `roles/*/defaults/main.yml`.
"""


def as_text(description: str | list[str]) -> str:
    """Return a description on one line, with Ansible's markup C(), V(), O() as Markdown code."""
    sentences = [description] if isinstance(description, str) else description
    text = " ".join(" ".join(sentences).split())
    return re.sub(r"\b[CVOE]\(([^)]*)\)", r"`\1`", text).replace("|", "\\|")


def as_code(value: Any) -> str:
    """Return a default as Markdown code: a template as it is written, anything else as JSON."""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    fence = "``" if "`" in text else "`"
    # A table needs each | escaped, inside code too.
    return f"{fence}{' '.join(text.split())}{fence}".replace("|", "\\|")


def as_type(option: dict[str, Any]) -> str:
    """Return the type of an option, with what a list holds and the values that it may have."""
    kind = str(option.get("type", "str"))
    if kind == "list":
        kind = f"list of {option.get('elements', 'str')}"
    if "choices" in option:
        kind += ": " + ", ".join(as_code(choice) for choice in option["choices"])
    return kind


def rows(options: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield one table row for each option and, indented below it, for those nested in it."""
    depth = path.count(".")
    for name, option in options.items():
        indent = "&nbsp;&nbsp;" * 2 * depth + ("↳ " if depth else "")
        default = as_code(option["default"]) if "default" in option else ""
        if option.get("required"):
            default = "required"
        yield (
            f"| {indent}`{name}` | {as_type(option)} | {default} "
            f"| {as_text(option.get('description', ''))} |"
        )
        yield from rows(option.get("options", {}), f"{path}{name}.")


def table(options: dict[str, Any]) -> str:
    """Return the variables of a role as a Markdown table."""
    lines = ["| Variable | Type | Default | Meaning |", "| --- | --- | --- | --- |", *rows(options)]
    return "\n".join(lines) + "\n"


def specs(roles: Path) -> dict[str, dict[str, Any]]:
    """Return the entry point `main` of each role that has argument specs, by role."""
    return {
        path.parts[-3]: yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"]
        for path in sorted(roles.glob("*/meta/argument_specs.yml"))
    }


def overview(found: dict[str, dict[str, Any]]) -> str:
    """Return the roles as a Markdown table: what each does, and its variables by name."""
    lines = ["| Role | What it does | Variables |", "| --- | --- | --- |"]
    for role, spec in found.items():
        names = ", ".join(f"`{name}`" for name in spec.get("options", {}))
        link = f"[{role}](docs/variables.md#{role})"
        lines.append(f"| {link} | {as_text(spec.get('short_description', ''))} | {names} |")
    return "\n".join(lines) + "\n"


def with_block(readme: str, block: str) -> str:
    """Return the README with the block between its markers, which are added where missing."""
    if BEGIN not in readme:
        readme = f"{readme.rstrip()}\n\n## Variables\n\n{BEGIN}\n{END}\n"
    before, rest = readme.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n{block}{END}{after}"


def generate(root: Path) -> dict[Path, str]:
    """Return the content that each generated file should have."""
    found = specs(root / "roles")
    sections = [HEADER]
    files = {}
    for role, spec in found.items():
        options = table(spec.get("options", {}))
        sections.append(f"\n## {role}\n\n{as_text(spec.get('description', ''))}\n\n{options}")
        readme = root / "roles" / role / "README.md"
        if readme.exists():
            files[readme] = with_block(readme.read_text(encoding="utf-8"), options)
    files[root / "docs" / "variables.md"] = "".join(sections)
    readme = root / "README.md"
    files[readme] = with_block(readme.read_text(encoding="utf-8"), overview(found))
    return files


def main() -> int:
    """Write what is out of date, or with --check name it; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check
    root = Path(__file__).resolve().parent.parent
    stale = {
        path: text
        for path, text in generate(root).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        print(f"{path.relative_to(root)} {'is out of date' if check else 'written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        print("Run docs/generate_variables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
