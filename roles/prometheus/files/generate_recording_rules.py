#!/usr/bin/env python3
"""Write rules/recording.yml: the same figures over each of six windows.

With --check nothing is written and the exit status is 1 when the file is not what it would be.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

FILE = Path(__file__).parent / "rules" / "recording.yml"
#: Windows by the group that records them, with how often: what changes slowly and reads days of
#: samples is recorded less often. Never 5m or more: a series older than that has no value.
GROUPS = (
    ("recording", None, {"5m": 300, "30m": 1800, "1h": 3600}),
    ("recording_long", "1m", {"6h": 21600, "1d": 86400, "3d": 259200}),
)
HEADER = """\
---
# Made by files/generate_recording_rules.py; edit there. Tested by tests/rules/recording.yml.
#
# level:metric:operations. Levels: queue is (job, instance, queue); instance is (job, instance), all
# queues of a PBX; job is all PBXs; member and trunk likewise. Every ratio is one of sums. What is
# divided by is compared with half a call in the window first, since rate() is rounded: nothing
# offered gives no value, neither 0 % nor 100 %.
#
# A call is offered when it enters the queue and answered later, so over a short window a ratio
# could pass 1 (clamped), and those who wait right now count as not answered yet.
groups:
"""
COUNTERS = ("offered", "answered", "answered_in_service_level", "short_abandoned")
#: Figures of a queue that are added up over all queues.
SUMMED = (
    *(f"asterisk_queue_calls_{name}" for name in COUNTERS),
    "asterisk_queue_calls_unanswered",
    "asterisk_queue_calls_counted",
    "asterisk_queue_calls_abandoned_in_service_level",
)
#: The exits that app_queue counts as Abandoned.
ABANDONED = "abandoned|timeout|empty|withdrawn|incompatible"
QUEUE = "job, instance, queue"
#: Levels above the queue: a PBX, and all PBXs.
TOTALS = (("instance", "job, instance"), ("job", "job"))
LEVELS = (("queue", QUEUE), *TOTALS)


def rule(record: str, expr: str) -> str:
    """Return one recording rule as YAML."""
    lines = "\n".join(f"          {line}" for line in expr.splitlines())
    return f"      - record: {record}\n        expr: |-\n{lines}\n"


def heading(text: str) -> str:
    """Return a comment before rules."""
    return "".join(f"      # {line}\n" for line in text.splitlines())


def ratio(above: str, below: str, least: str) -> str:
    """Return a ratio of at most 1, with no value unless ``below`` is more than ``least``."""
    return f"clamp_max(\n  {above}\n    / ({below}\n      > {least}), 1)"


def counts(window: str) -> Iterator[str]:
    """Yield the rules for numbers of calls a second."""
    yield heading(f"Over {window}: calls a second.")
    for name in COUNTERS:
        metric = f"asterisk_queue_calls_{name}"
        expr = f"sum by ({QUEUE}) (rate({metric}_total[{window}]))"
        yield rule(f"queue:{metric}:rate{window}", expr)
    unanswered = "asterisk_queue_calls_unanswered"
    yield rule(
        f"queue_reason:{unanswered}:rate{window}",
        f"sum by ({QUEUE}, reason) (rate({unanswered}_total[{window}]))",
    )
    yield rule(
        f"queue:{unanswered}:rate{window}",
        f"sum by ({QUEUE}) (queue_reason:{unanswered}:rate{window})",
    )
    yield heading(
        "Those that the service level is about: offered, bar callers who gave up at once."
    )
    yield rule(
        f"queue:asterisk_queue_calls_counted:rate{window}",
        f"queue:asterisk_queue_calls_offered:rate{window}\n"
        f"  - queue:asterisk_queue_calls_short_abandoned:rate{window}",
    )
    yield heading(
        "The bucket of unanswered waits whose bound is the queue's service level. Other than\n"
        "app_queue's callsabandonedinsl it has the callers who left by a key."
    )
    level = "asterisk_queue_service_level_seconds"
    yield rule(
        f"queue:asterisk_queue_calls_abandoned_in_service_level:rate{window}",
        f"""\
sum by ({QUEUE}) (
  rate(asterisk_queue_wait_seconds_bucket{{outcome="unanswered"}}[{window}])
    and on ({QUEUE}, le)
  label_replace(
    count_values by ({QUEUE}) ("le", {level}),
    "le", "$1.0", "le", "([0-9]+)")
)
  or
0 * sum by ({QUEUE}) ({level})""",
    )
    for level, by in TOTALS:
        for metric in SUMMED:
            yield rule(
                f"{level}:{metric}:rate{window}", f"sum by ({by}) (queue:{metric}:rate{window})"
            )
        yield rule(
            f"{level}_reason:{unanswered}:rate{window}",
            f"sum by ({by}, reason) (queue_reason:{unanswered}:rate{window})",
        )


def service_levels(window: str, least: str) -> Iterator[str]:
    """Yield the rules for service level and abandonment by each formula in use."""
    for level, by in LEVELS:

        def calls(name: str, level: str = level) -> str:
            return f"{level}:asterisk_queue_calls_{name}:rate{window}"

        def named(name: str, level: str = level) -> str:
            return f"{level}:asterisk_queue_{name}:ratio_rate{window}"

        in_level = calls("answered_in_service_level")
        reasons = f"{level}_reason:asterisk_queue_calls_unanswered:rate{window}"
        abandoned = f'sum by ({by}) ({reasons}{{reason="abandoned"}})'
        as_asterisk = f'sum by ({by}) (\n        {reasons}{{reason=~"{ABANDONED}"}})'
        yield heading("Answered in the service level, of all but the short abandoned: the default.")
        yield rule(named("service_level"), ratio(in_level, calls("counted"), least))
        yield rule(named("service_level_of_offered"), ratio(in_level, calls("offered"), least))
        yield rule(named("service_level_of_answered"), ratio(in_level, calls("answered"), least))
        yield heading(
            "What queue show calls SL and SL2 (which takes who gave up early for served)."
        )
        yield rule(named("service_level_asterisk"), ratio(in_level, calls("answered"), least))
        yield rule(
            named("service_level_asterisk2"),
            ratio(
                f"({in_level}\n    + {calls('abandoned_in_service_level')})",
                f"{calls('answered')}\n      + {as_asterisk}",
                least,
            ),
        )
        yield heading("Callers who hung up: without and with those who did so at once.")
        yield rule(
            named("abandonment"),
            ratio(
                f"clamp_min(\n    {abandoned}\n    - {calls('short_abandoned')}, 0)",
                calls("counted"),
                least,
            ),
        )
        yield rule(named("abandonment_of_offered"), ratio(abandoned, calls("offered"), least))


def times(window: str, least: str) -> Iterator[str]:
    """Yield the rules for mean times and for occupancy."""
    yield heading("Mean wait of answered calls (ASA) and mean talk time (AHT without wrap-up).")
    for name, metric, where in (
        ("speed_of_answer", "asterisk_queue_wait_seconds", '{outcome="answered"}'),
        ("handle", "asterisk_queue_talk_seconds", ""),
    ):
        for level, by in LEVELS:
            yield rule(
                f"{level}:asterisk_queue_{name}_seconds:mean_rate{window}",
                f"sum by ({by}) (rate({metric}_sum{where}[{window}]))\n"
                f"  / (sum by ({by}) (rate({metric}_count{where}[{window}])) > {least})",
            )
    yield heading(
        "Occupancy: talking, of the time logged in and not paused. Members of the configuration\n"
        "never log in, and have none."
    )

    def state(name: str) -> str:
        seconds = "asterisk_queue_agent_seconds_total"
        return f'sum by (job, instance, member) (rate({seconds}{{state="{name}"}}[{window}]))'

    talking = f"member:asterisk_queue_agent_talking_seconds:rate{window}"
    ready = f"member:asterisk_queue_agent_ready_seconds:rate{window}"
    yield rule(
        ready, f"{state('logged_in')}\n  - ({state('paused')}\n    or 0 * {state('logged_in')})"
    )
    yield rule(talking, f"{state('talking')}\n  and {ready}\n  or 0 * {ready}")
    yield rule(
        f"member:asterisk_queue_agent_occupancy:ratio_rate{window}",
        f"clamp_max({talking} / ({ready} > 0), 1)",
    )
    for level, by in TOTALS:
        yield rule(
            f"{level}:asterisk_queue_agent_occupancy:ratio_rate{window}",
            f"clamp_max(\n  sum by ({by}) ({talking})\n    / (sum by ({by}) ({ready}) > 0), 1)",
        )


def trunks(window: str, least: str) -> Iterator[str]:
    """Yield the rules for trunks."""
    yield heading("ASR, NER and ACD.")

    def figure(name: str) -> str:
        return f"sum by (job, instance, trunk) (rate(asterisk_trunk_{name}_total[{window}]))"

    attempts = figure("attempts")
    yield rule(
        f"trunk:asterisk_trunk_answer_seizure:ratio_rate{window}",
        ratio(figure("answered"), attempts, least),
    )
    yield rule(
        f"trunk:asterisk_trunk_network_effectiveness:ratio_rate{window}",
        f"1 - {ratio(figure('network_failures'), attempts, least)}",
    )
    yield rule(
        f"trunk:asterisk_trunk_call_duration_seconds:mean_rate{window}",
        f"{figure('talk_seconds')}\n  / ({figure('answered')} > {least})",
    )


def budget() -> Iterator[str]:
    """Yield the group for what is left of the error budget."""
    yield "\n  - name: recording_budget\n    interval: 2m\n    rules:\n"
    yield heading(
        "1: untouched, 0: used up, below 0: overspent; the objective is the inventory's.\n"
        "The 30 days slide, and a younger Prometheus has fewer."
    )
    increase = "sum by (job, instance, queue) (increase(asterisk_queue_calls_{}_total[30d]))"
    yield rule(
        "queue:asterisk_queue_service_level_budget_remaining:ratio30d",
        f"""\
1 - (
  1 - clamp_max(
    {increase.format("answered_in_service_level")}
      /
    (
      {increase.format("offered")}
        -
      {increase.format("short_abandoned")}
        > 0.5
    ), 1)
) / (1 - queue:asterisk_queue_service_level_objective:ratio)""",
    )


def generate() -> str:
    """Return the content of the file."""
    parts = [HEADER]
    for name, interval, windows in GROUPS:
        parts.append("\n" if len(parts) > 1 else "")
        parts.append(f"  - name: {name}\n")
        parts.append(f"    interval: {interval}\n" if interval else "")
        parts.append("    rules:\n")
        for window, seconds in windows.items():
            least = f"0.5 / {seconds}"
            parts += [*counts(window), *service_levels(window, least)]
            parts += [*times(window, least), *trunks(window, least)]
    return "".join([*parts, *budget()])


def main() -> int:
    """Write the file if it is out of date, or with --check say so; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check
    stale = not FILE.exists() or FILE.read_text(encoding="utf-8") != generate()
    if stale and not check:
        FILE.write_text(generate(), encoding="utf-8")
    return int(stale and check)


if __name__ == "__main__":
    sys.exit(main())
