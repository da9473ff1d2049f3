"""Nothing is lost and nothing counted twice, whatever happens while calls run.

The truth is recomputed from queue_log and SQL by the few lines below, not by the exporter's code.
"""

from __future__ import annotations

import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from history import Watch, wait_until_settled
from lab import Lab, wait_until

KILLS = 100
DROP_IN = "/run/systemd/system/asterisk-exporter.service.d/test.conf"
EXITS = {"ABANDON": "abandoned", "EXITWITHTIMEOUT": "timeout"}
#: CDR columns of a call to extension 104 that nobody answered, as Asterisk writes them.
RECORD = (
    "INSERT INTO cdr (src, dst, dcontext, channel, dstchannel, lastapp, lastdata, start, "
    '"end", duration, billsec, disposition, uniqueid, linkedid, sequence, userfield) '
    "VALUES ('{src}', '+493055504', 'from-external', 'PJSIP/provider-0000ffff', "
    "'PJSIP/104-0000ffff', 'Dial', 'PJSIP/104/sip:104@127.0.0.1', now() - interval '5 s', now(), "
    "5, 0, '{disposition}', '{id}', '{id}', 1, 'extension:104')"
)


@dataclass
class Truth:
    """What happened since ``began``, in the words of the metrics."""

    queue: Counter[str]
    calls: Counter[str]
    records: Counter[str]


def psql(system: str, sql: str) -> str:
    """Return the shell command that runs SQL as the Asterisk of that name would."""
    return (
        "cd /; runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 "
        f"'dbname=asterisk application_name={system}' <<'SQL'\n{sql};\nSQL\n"
    )


def sipp(index: int, number: str, calls: int, every: int, patience: int) -> str:
    """Return the shell command that makes many calls to one number, every so many milliseconds."""
    callers = "\n".join(f"+49155{index}{n:06};{number}" for n in range(calls))
    return textwrap.dedent(
        """
        cat >callers-{index} <<'END'
        SEQUENTIAL
        {callers}
        END
        sipp 127.0.0.1:5060 -sf /usr/local/share/lab/provider.xml -i 127.0.0.2 -p {port} \\
            -min_rtp_port {rtp} -inf callers-{index} -m {calls} -l 40 -r 1 -rp {every} \\
            -recv_timeout {patience} -nostdin -rtp_echo >/dev/null 2>&1 &
        """
    ).format(
        index=index,
        callers=callers,
        port=6100 + index,
        rtp=42000 + 400 * index,
        calls=calls,
        every=every,
        patience=patience,
    )


def make_calls(lab: Lab) -> None:
    """Calls at full speed: people who give up in a queue, who are answered, whom nobody answers."""
    script = "mkdir -p /run/nothing-lost; cd /run/nothing-lost\n"
    script += sipp(1, "+493055502", calls=700, every=300, patience=3000)
    script += sipp(2, "+493055501", calls=60, every=3500, patience=4000)
    script += sipp(3, "+493055504", calls=300, every=700, patience=2500)
    lab.run("sh -s", stdin=script + "wait; rm -r /run/nothing-lost\n")


def kill_the_exporter(lab: Lab) -> int:
    """Kill it at random instants of its life, until it was killed often enough."""
    script = textwrap.dedent(
        """
        import os, random, signal, subprocess, time
        kills = 0
        while kills < 25:
            time.sleep(random.uniform(0.1, 2.5))
            show = ["systemctl", "show", "--property=MainPID", "--value", "asterisk-exporter"]
            pid = int(subprocess.run(show, capture_output=True, text=True).stdout)
            if pid:
                os.kill(pid, signal.SIGKILL)
                kills += 1
        print(kills)
        """
    )
    return sum(int(lab.run("python3 -", stdin=script)) for _ in range(KILLS // 25))


def rotate(lab: Lab, times: int) -> None:
    for _ in range(times):
        time.sleep(40)
        lab.run("logrotate --force /etc/logrotate.d/asterisk")


def write_for_another_pbx(lab: Lab, records: int) -> None:
    sql = ";\n".join(
        RECORD.format(src=f"+4915599{n:05}", disposition="BUSY", id=f"pbx2-{time.time()}.{n}")
        + "; SELECT pg_sleep(0.5)"
        for n in range(records)
    )
    lab.run(psql("pbx2", sql) + " >/dev/null")


def hold_a_transaction_open(lab: Lab) -> None:
    record = RECORD.format(
        src="+4915577000001", disposition="NO ANSWER", id=f"pbx1-{time.time()}.held"
    )
    lab.run(psql("pbx1", f"BEGIN; {record}; SELECT pg_sleep(30); COMMIT"))


def queue_log_since(lab: Lab, began: int) -> list[list[str]]:
    lines = lab.run("cd /var/log/asterisk; zcat -f $(ls -tr queue_log*)").splitlines()
    return [fields for line in lines if int((fields := line.split("|"))[0]) >= began]


def truth(lab: Lab, began: int, first_id: int) -> Truth:
    """Recompute everything. A call is its linkedid; each of ours has one visit at most."""
    queue: Counter[str] = Counter()
    exits: dict[str, tuple[str, str]] = {}
    for _, callid, name, _, event, *data in queue_log_since(lab, began):
        if event == "ENTERQUEUE":
            queue[f"asterisk_queue_calls_offered_total{{queue={name}}}"] += 1
        elif event == "CONNECT":
            queue[f"asterisk_queue_calls_answered_total{{queue={name}}}"] += 1
            queue[f"asterisk_queue_wait_seconds_sum{{outcome=answered,queue={name}}}"] += int(
                data[0]
            )
            exits[callid] = name, "answered"
        elif event in EXITS:
            labels = f"{{queue={name},reason={EXITS[event]}}}"
            queue[f"asterisk_queue_calls_unanswered_total{labels}"] += 1
            queue[f"asterisk_queue_wait_seconds_sum{{outcome=unanswered,queue={name}}}"] += int(
                data[2]
            )
            exits[callid] = name, EXITS[event]
        elif event.startswith("COMPLETE"):
            queue[f"asterisk_queue_talk_seconds_count{{queue={name}}}"] += 1
    records: Counter[str] = Counter()
    linked: dict[str, set[str]] = {}
    for disposition, linkedid, destination in lab.sql(
        "SELECT disposition, linkedid, userfield FROM cdr "
        f"WHERE system_name = 'pbx1' AND id > {first_id} AND imported_at IS NULL"
    ):
        records[f"asterisk_cdr_records_total{{disposition={disposition}}}"] += 1
        linked.setdefault(linkedid, set()).add(destination)
    calls: Counter[str] = Counter()
    for linkedid, destinations in linked.items():
        name, end = exits.get(linkedid, ("extension:104", "no_answer"))
        assert linkedid in exits or destinations == {"extension:104"}
        outcome = "answered" if end == "answered" else "missed"
        calls[f"asterisk_calls_total{{direction=inbound,outcome={outcome}}}"] += 1
        if outcome == "missed":
            calls[f"asterisk_missed_calls_total{{destination={name},reason={end}}}"] += 1
    return Truth(queue, calls, records)


def counted(lab: Lab, before: dict[str, float], names: Counter[str]) -> Counter[str]:
    """What the exporter counted since then, of the families that ``names`` are from."""
    families = {name.partition("{")[0] for name in names}
    return Counter(
        {
            name: grown
            for name, value in lab.metrics().items()
            if name.partition("{")[0] in families
            and "direction=outbound" not in name
            and (grown := round(value - before.get(name, 0)))
        }
    )


@pytest.fixture
def restarts_at_once(lab: Lab) -> Iterator[None]:
    """Let systemd start the exporter again at once, however often it is killed."""
    text = "[Unit]\\nStartLimitIntervalSec=0\\n[Service]\\nRestartSec=100ms\\n"
    lab.run(
        f"mkdir -p $(dirname {DROP_IN}); printf '{text}' >{DROP_IN}; systemctl daemon-reload;"
        " systemctl reset-failed asterisk-exporter; systemctl start asterisk-exporter"
    )
    yield
    lab.run(
        f"rm {DROP_IN}; systemctl daemon-reload; systemctl reset-failed asterisk-exporter;"
        " systemctl restart asterisk-exporter"
    )
    lab.wait_until_well()


def settled(lab: Lab, before: dict[str, float], names: Counter[str], seconds: float) -> None:
    wait_until(
        lambda: counted(lab, before, names) == names,
        seconds,
        f"the exporter has counted {dict(names)}",
    )


@pytest.mark.usefixtures("restarts_at_once")
def test_nothing_is_lost_and_nothing_counted_twice(lab: Lab) -> None:
    wait_until_settled(lab)
    before = lab.metrics()
    first_id = int(lab.sql("SELECT coalesce(max(id), 0) FROM cdr")[0][0])
    began = int(lab.run("date +%s"))
    time.sleep(1)

    watch = Watch(lab)
    watcher = threading.Thread(target=watch.run)
    watcher.start()
    try:
        with ThreadPoolExecutor() as pool:
            kills = pool.submit(kill_the_exporter, lab)
            work = [
                pool.submit(make_calls, lab),
                pool.submit(rotate, lab, 3),
                pool.submit(write_for_another_pbx, lab, 40),
            ]
            time.sleep(50)
            lab.run("systemctl restart postgresql@*-main.service")
            work.append(pool.submit(hold_a_transaction_open, lab))
            work.append(pool.submit(write_for_another_pbx, lab, 100))
            work.pop(2).exception()  # the other PBX lost its connection with PostgreSQL
            for job in work:
                job.result()
            assert kills.result() == KILLS
        lab.wait_until_well()
        wait_until_settled(lab)
        true = truth(lab, began, first_id)
        for names in (true.queue, true.records, true.calls):
            settled(lab, before, names, 60)
    finally:
        watch.over = True
        watcher.join()

    assert true.queue["asterisk_queue_calls_unanswered_total{queue=sales,reason=abandoned}"] > 500
    assert true.calls["asterisk_calls_total{direction=inbound,outcome=answered}"] > 30
    assert watch.scrapes > 100
    assert not watch.went_down
    meanwhile = f"[{int(lab.run('date +%s')) - began}s]"
    for name in ("queue_calls_offered", "missed_calls", "cdr_records"):
        assert lab.prometheus(f"max(resets(asterisk_{name}_total{meanwhile}))") == 0
