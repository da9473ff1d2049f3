"""What the playbooks promise, as far as it is to be read there."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def plays(name):
    return yaml.safe_load((ROOT / "playbooks" / f"{name}.yml").read_text())


def tasks_of(play):
    """All tasks of a play, those in blocks too."""
    waiting = list(play.get("tasks", []))
    while waiting:
        task = waiting.pop(0)
        waiting += task.get("block", [])
        yield task


def imported(play):
    """The entry points of roles that a play imports: (role, tasks_from)."""
    calls = [task.get("ansible.builtin.import_role") for task in tasks_of(play)]
    return [(call["name"], call.get("tasks_from", "main")) for call in calls if call]


def test_what_is_installed_can_be_uninstalled():
    site, uninstall = plays("site"), plays("uninstall")
    installed = {role for play in site for role in play.get("roles", [])}
    installed |= {role for play in site for role, _ in imported(play)}
    removed = [role for role, tasks in imported(uninstall[0]) if tasks == "uninstall"]
    assert sorted(removed) == sorted(installed)
    for role in installed:
        assert (ROOT / "roles" / role / "tasks" / "uninstall.yml").is_file(), role


def test_data_goes_only_where_that_is_said():
    [play] = plays("uninstall")
    of_data = {role for role, tasks in imported(play) if tasks == "uninstall_data"}
    assert of_data == {path.parts[-3] for path in ROOT.glob("roles/*/tasks/uninstall_data.yml")}
    [block] = [task for task in play["tasks"] if task.get("when") == "_uninstall_data"]
    assert {role for role, tasks in imported({"tasks": [block]})} == of_data


def test_asterisk_is_stopped_on_one_pbx_after_the_other():
    stopping = [play for play in plays("upgrade") if ("asterisk", "upgrade") in imported(play)]
    assert [play["serial"] for play in stopping] == [1]
    # a failed task is a failed batch, and with it the end of the run
    assert not any("ignore_errors" in task for play in stopping for task in tasks_of(play))
