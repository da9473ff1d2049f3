"""Asterisk and PostgreSQL go away and come back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from history import wait_until_read, wait_until_settled
from lab import Lab, wait_until

UP = "asterisk_up{}"
CDR_READER = "asterisk_exporter_collector_success{collector=cdr}"


def records(metrics: dict[str, float]) -> float:
    return sum(v for k, v in metrics.items() if k.startswith("asterisk_cdr_records_total{"))


@pytest.fixture
def calm(lab: Lab) -> None:
    """All is well, and no record of a call before is on its way."""
    lab.wait_until_well()
    wait_until_settled(lab)


@pytest.mark.usefixtures("calm")
def test_exporter_is_back_within_10_seconds_of_asterisk(
    lab: Lab, started: Callable[[str], None]
) -> None:
    started("asterisk")
    before = lab.metrics()
    assert before[UP] == 1
    lab.run("systemctl stop asterisk")
    down = lab.metrics()  # get() gives it 2 seconds
    assert down[UP] == 0
    assert records(down) == records(before)
    lab.run("systemctl start asterisk && asterisk -rx 'core waitfullybooted'")
    wait_until(lambda: lab.metrics()[UP] == 1, 10, "asterisk_up is 1 again")


def test_check_says_what_is_wrong_while_asterisk_is_down(
    lab: Lab, started: Callable[[str], None]
) -> None:
    started("asterisk")
    lab.run("systemctl stop asterisk")
    result = lab.exec("asterisk-exporter check")
    assert result.returncode == 2
    first = result.stdout.splitlines()[0]
    assert first.startswith("ASTERISK CRITICAL")
    assert "127.0.0.1:5038" in first
    assert "systemctl status asterisk" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_wrong_password_is_told_apart_from_a_dead_asterisk(lab: Lab) -> None:
    """The configuration in use, with another secret beside it."""
    lab.run("mkdir -p /run/wrong && echo not-the-secret-of-anyone >/run/wrong/ami-secret")
    lab.run("sed '/^cdr:/,$d' /etc/asterisk-exporter/asterisk-exporter.yml >/run/wrong/wrong.yml")
    wrong = lab.exec("asterisk-exporter check --config /run/wrong/wrong.yml")
    assert wrong.returncode == 2
    assert "rejected" in wrong.stdout
    assert "manager show user exporter" in wrong.stdout
    assert "not-the-secret-of-anyone" not in wrong.stdout + wrong.stderr


@pytest.mark.usefixtures("calm")
def test_call_records_survive_a_restart_of_the_database(
    lab: Lab, started: Callable[[str], None]
) -> None:
    started("postgresql")
    before = lab.metrics()
    lab.run("systemctl stop postgresql")
    wait_until(lambda: lab.metrics()[CDR_READER] == 0, 60, "the exporter misses the database")
    during = lab.metrics()
    assert during[UP] == 1
    assert records(during) == records(before)
    lab.run("systemctl start postgresql")
    wait_until(lambda: lab.metrics()[CDR_READER] == 1, 60, "the exporter reads the database again")
    lab.run("lab-call extension 101 102 3")
    wait_until(lambda: records(lab.metrics()) == records(before) + 1, 60, "the new record counts")


@pytest.mark.usefixtures("calm")
def test_killed_exporter_counts_on_where_it_was(lab: Lab) -> None:
    before = records(lab.metrics())
    lab.run("systemctl kill --signal=KILL asterisk-exporter")
    lab.run("lab-call extension 101 102 3")

    def counted() -> float:
        try:
            return records(lab.metrics())
        except OSError:  # it is just starting
            return 0

    wait_until(lambda: counted() >= before + 1, 60, "the record made meanwhile counts")
    wait_until_read(lab, "cdr")  # once more: nothing is read twice
    assert counted() == before + 1
