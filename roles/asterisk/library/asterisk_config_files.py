"""Ansible module: write a set of configuration files in one round trip."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: asterisk_config_files
short_description: Write a set of configuration files in one round trip
description:
  - Like the template module for many files at once. Asterisk has a file for each of its parts, and
    a connection for each of them would make up most of a run.
  - Missing directories are made, with the same owner.
  - The contents are never written to the system log. Set C(no_log) where they carry secrets.
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Where the file is., type: path, required: true}
      content: {description: What it holds; a file without content is removed., type: str}
      owner: {description: Owner of this file., type: str}
      group: {description: Group of this file., type: str}
      mode: {description: Mode of this file., type: str}
  owner: {description: Owner of the files., type: str, default: root}
  group: {description: Group of the files., type: str, default: root}
  mode: {description: Mode of the files., type: str, default: "0644"}
"""

EXAMPLES = """
- name: Write two files
  asterisk_config_files:
    owner: asterisk
    group: asterisk
    mode: "0640"
    files:
      - path: /etc/asterisk/queues.conf
        content: "{{ lookup('ansible.builtin.template', 'queues.conf.j2') }}"
      - path: /etc/asterisk/users.conf
"""

RETURN = """
changed_files:
  description: Paths of the files whose content has changed, or would have.
  type: list
  returned: always
"""


def read(path: str) -> str | None:
    """Return what a file holds, or None where there is none."""
    try:
        with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None


def owned(module: AnsibleModule, path: str, wanted: dict[str, Any]) -> bool:
    """Give a path its owner, group and mode; return whether one was different."""
    return bool(
        module.set_fs_attributes_if_different(
            module.load_file_common_arguments({**wanted, "path": path}), False
        )
    )


def make_directory(module: AnsibleModule, path: Path, wanted: dict[str, Any]) -> None:
    """Make a directory, and those above it, where they are missing."""
    if path.is_dir():
        return
    make_directory(module, path.parent, wanted)
    path.mkdir()
    # Who may read the files may enter.
    mode = "".join(str(int(digit) | (int(digit) & 4) >> 2) for digit in wanted["mode"])
    owned(module, str(path), {**wanted, "mode": mode})


def write(module: AnsibleModule, wanted: dict[str, Any]) -> None:
    """Put a file into its place, whole or not at all."""
    path = Path(wanted["path"])
    make_directory(module, path.parent, wanted)
    # Beside its place, so that the move is one step; and with owner and mode before the move, so
    # that no moment shows a secret to anybody else.
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(wanted["content"])
        owned(module, temporary, wanted)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def difference(path: str, before: str | None, after: str | None) -> dict[str, str]:
    """Return what --diff shows."""
    return {
        "before_header": path,
        "after_header": path,
        "before": before or "",
        "after": after or "",
    }


def main() -> None:
    """Run the module."""
    attributes: dict[str, Any] = {
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "mode": {"type": "str"},
    }
    module = AnsibleModule(
        {
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str"},
                    **attributes,
                },
            },
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "mode": {"type": "str", "default": "0644"},
        },
        supports_check_mode=True,
        no_log=True,
    )
    changed_files, diffs, changed = [], [], False
    for given in module.params["files"]:
        wanted = {**given, **{key: given[key] or module.params[key] for key in attributes}}
        path, before = wanted["path"], read(wanted["path"])
        if before != wanted["content"]:
            changed_files.append(path)
            diffs.append(difference(path, before, wanted["content"]))
            if not module.check_mode and wanted["content"] is None:
                Path(path).unlink()
            elif not module.check_mode:
                write(module, wanted)
        elif before is not None:
            changed = owned(module, path, wanted) or changed
    module.exit_json(
        changed=changed or bool(changed_files), changed_files=changed_files, diff=diffs
    )


if __name__ == "__main__":
    main()
