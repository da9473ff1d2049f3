"""What only events tell: RTP quality and security."""

from __future__ import annotations

from lab import Lab, wait_until


def test_rtp_quality_of_a_call(lab: Lab) -> None:
    counts = "asterisk_rtp_jitter_seconds_count", "asterisk_rtp_packet_loss_ratio_count"

    def reports() -> list[float]:
        metrics = lab.metrics()
        return [sum(v for k, v in metrics.items() if k.startswith(name)) for name in counts]

    before = reports()
    lab.run("lab-call provider +4915550017 +493055501 14")
    wait_until(
        lambda: all(after > earlier for after, earlier in zip(reports(), before)),
        10,
        "its reports are counted",
    )


def test_a_wrong_ami_password_is_a_security_event(lab: Lab) -> None:
    event = "asterisk_security_events_total{event=InvalidPassword}"
    before = lab.metrics()[event]
    login = r"Action: Login\r\nUsername: exporter\r\nSecret: wrong\r\n\r\n"
    ami = "exec 3<>/dev/tcp/127.0.0.1/5038; cat >&3"
    lab.run(f"(printf '{login}'; sleep 2) | timeout 5 bash -c '{ami}'")
    wait_until(lambda: lab.metrics()[event] > before, 20, "the event is counted")


def test_events_come_back_after_a_restart_of_asterisk(lab: Lab) -> None:
    connected = "asterisk_exporter_events_connected{}"
    wait_until(lambda: lab.metrics()[connected] == 1, 20, "it is connected")
    before = lab.metrics()["asterisk_exporter_events_reconnects_total{}"]
    lab.run("systemctl restart asterisk && asterisk -rx 'core waitfullybooted'")
    wait_until(
        lambda: lab.metrics()["asterisk_exporter_events_reconnects_total{}"] > before,
        60,
        "the connection is back",
    )
    wait_until(lambda: lab.metrics()[connected] == 1, 20, "it is connected")
    lab.wait_until_well()
