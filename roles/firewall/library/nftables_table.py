"""Ansible module: the rules of one table of nftables, which are taken back unless they are kept."""

from __future__ import annotations

import shlex
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: nftables_table
short_description: Rules of one table of nftables, which are taken back unless they are kept
description:
  - Rules that keep everybody out keep out whoever would mend them too. So new ones are tried first.
    Until they are kept, the file has the old ones, which a timer of systemd loads again; so does a
    start of the machine.
  - Tables of others are left alone.
options:
  state:
    description:
      - C(tried), the rules are in force; nft has checked them before. Changed when they are not
        those of the file already.
      - C(kept), the file has those on trial.
      - C(absent), there is neither the table nor the file.
    type: str
    required: true
    choices: [tried, kept, absent]
  table: {description: Family and name., type: str, required: true}
  path: {description: File that nft loads., type: path, required: true}
  content: {description: What it holds; loading it replaces the table., type: str}
  take_back_seconds: {description: How long a trial takes., type: int}
"""

EXAMPLES = """
- name: Try new rules
  nftables_table:
    state: tried
    table: inet appliance
    path: /etc/nftables.d/appliance.nft
    content: "{{ lookup('ansible.builtin.template', 'appliance.nft.j2') }}"
    take_back_seconds: 30
"""

RETURN = ""

TIMER = "appliance-firewall-take-back"


def read(path: Path) -> str:
    """Return what a file holds, nothing where there is none."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


def take_back(table: str, path: Path, trial: Path) -> str:
    """Return the shell commands that bring back the rules of the file.

    No semicolon is among them: systemd 252 spoils those of a command that waits when somebody
    calls daemon-reload.
    """
    file = shlex.quote(str(path))
    return "\n".join(
        [
            f"rm -f {shlex.quote(str(trial))}",
            f"if [ -e {file} ]",
            f"then exec nft --file {file}",
            f"else exec nft delete table {table}",
            "fi",
        ]
    )


class Table:
    """The table, its file, and the one with the rules on trial."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.name: str = module.params["table"]
        self.path = Path(module.params["path"])
        self.trial = Path(f"{self.path}.trial")
        self.nft = module.get_bin_path("nft")

    @property
    def loaded(self) -> bool:
        """Whether the kernel has the table."""
        if self.nft is None:
            return False
        status, _, _ = self.module.run_command([self.nft, "list", "table", *self.name.split()])
        return bool(status == 0)

    def end_trial(self) -> None:
        """Stop the timer of a trial, where there is one."""
        self.module.run_command(["systemctl", "stop", f"{TIMER}.timer"])

    def tried(self, content: str, seconds: int) -> bool:
        """Put rules into force; return whether they were not."""
        if read(self.path) == content and self.loaded:
            return False
        if self.nft is None:
            # a dry run on a fresh machine
            return True
        self.module.run_command([self.nft, "--check", "--file", "-"], data=content, check_rc=True)
        if self.module.check_mode:
            return True
        self.path.parent.mkdir(exist_ok=True)
        self.end_trial()
        self.trial.write_text(content, encoding="utf-8")
        command = take_back(self.name, self.path, self.trial)
        timer = ["systemd-run", "--collect", f"--unit={TIMER}", f"--on-active={seconds}s"]
        timer += ["--description=Firewall rules of before", "--timer-property=AccuracySec=100ms"]
        timer += ["/bin/sh", "-c", command]
        self.module.run_command(timer, check_rc=True)
        self.module.run_command([self.nft, "--file", str(self.trial)], check_rc=True)
        return True

    def kept(self) -> bool:
        """Make the rules on trial those of the file."""
        self.end_trial()
        if not self.trial.exists():
            self.module.fail_json(
                "The new rules kept Ansible's own connection out and have been taken back; those of"
                " before are in force. Look at firewall_ssh_sources, in which this controller must"
                " be, and at firewall_ssh_ports; or let firewall_take_back_seconds be more."
            )
        self.trial.replace(self.path)
        return True

    def absent(self) -> bool:
        """Take table and file away; return whether there was one of them."""
        there = self.loaded
        if there and not self.module.check_mode:
            self.module.run_command(
                [str(self.nft), "delete", "table", *self.name.split()], check_rc=True
            )
        if not self.path.exists():
            return there
        if not self.module.check_mode:
            self.path.unlink()
        return True


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "state": {"type": "str", "required": True, "choices": ["tried", "kept", "absent"]},
            "table": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "content": {"type": "str"},
            "take_back_seconds": {"type": "int"},
        },
        required_if=[("state", "tried", ["content", "take_back_seconds"])],
        supports_check_mode=True,
    )
    table = Table(module)
    before = read(table.path)
    after = ""
    if module.params["state"] == "tried":
        after = module.params["content"]
        changed = table.tried(after, module.params["take_back_seconds"])
    elif module.params["state"] == "kept":
        changed = table.kept()
        before = after = ""
    else:
        changed = table.absent()
    module.exit_json(changed=changed, diff={"before": before, "after": after})


if __name__ == "__main__":
    main()
