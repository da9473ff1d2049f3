#!/usr/bin/env python3
"""The dashboards, and the page that describes them.

Writes roles/grafana/files/dashboards/*.json and docs/dashboards.md. With --check nothing is written
and the exit status is 1 when a file is not what it would be.

First come the words in which dashboards are written (a query, a panel of each kind, a page), then
one function for each dashboard, which reads like the dashboard.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    text,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import heatmap as h
from grafana_foundation_sdk.models import prometheus as p
from grafana_foundation_sdk.models import text as t

ROLE = Path(__file__).resolve().parent
ROOT = ROLE.parents[1]

TAG = "asterisk-appliance"
# The data source that the role provisions; another one can be chosen on each dashboard.
DATASOURCE_UID = "asterisk-prometheus"
DATASOURCE = d.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Where the runbooks are; the role puts the site's address here.
RUNBOOKS = "http://127.0.0.1:9090/consoles/runbooks"

# Okabe and Ito's colours, which the colour-blind can tell apart. One meaning each, everywhere.
GOOD = ANSWERED = "#009E73"
BAD = UNANSWERED = "#D55E00"
WARN = WAITING = "#E69F00"
OFFERED = "#56B4E9"
NEUTRAL = "#0072B2"
PAUSED = "#CC79A7"
QUIET = "#999999"

# ---- queries ------------------------------------------------------------------------------------

PBX = 'instance=~"$pbx"'
QUEUE = f'{PBX}, queue=~"$queue"'


def today(metric: str, by: str, labels: str = PBX) -> str:
    """Return how much a counter grew in the time range, which is today where `today=True`."""
    return f"sum by ({by}) (increase({metric}{{{labels}}}[$__range]))"


def from_nothing(metric: str, by: str, labels: str = PBX) -> str:
    """Return the same for a counter that appears with its first event, which increase() misses.

    A series that was not there when the time range began, though its exporter was, is all of it.
    """
    series = f"{metric}{{{labels}}}"
    return (
        f"sum by ({by}) (({series} unless {series} offset $__range)"
        f" and on (job, instance) asterisk_up{{{PBX}}} offset $__range"
        f" or increase({series}[$__range]))"
    )


def per_hour(metric: str, by: str, labels: str = PBX) -> str:
    """Return how much a counter grows an hour."""
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval])) * 3600"


def service_level_today(by: str, labels: str) -> str:
    """Return the service level in the time range; nothing offered gives no value."""
    good = today("asterisk_queue_calls_answered_in_service_level_total", by, labels)
    offered = today("asterisk_queue_calls_offered_total", by, labels)
    short = today("asterisk_queue_calls_short_abandoned_total", by, labels)
    # One call is 1; half of one leaves room for what sums of fractions leave over.
    return f"{good} / ({offered} - {short} > 0.5)"


def quantile(share: float, metric: str, by: str, window: str) -> str:
    """Return a quantile of a histogram; nothing observed gives no value."""
    keys = f"le, {by}" if by else "le"
    inner = f"sum by ({keys}) (increase({metric}_bucket{{{PBX}}}[{window}]))"
    # NaN is not even equal to itself.
    return f"histogram_quantile({share}, {inner}) >= 0"


@dataclass(frozen=True)
class Query:
    """One query of a panel and the legend of its series."""

    expr: str
    legend: str = "__auto"


def target(
    query: Query, ref: str, kind: p.PromQueryFormat = p.PromQueryFormat.TIME_SERIES
) -> prometheus.Dataquery:
    """Return what a query is in a dashboard: over time, or one value for a table."""
    made = (
        prometheus.Dataquery()
        .expr(query.expr)
        .legend_format(query.legend)
        .ref_id(ref)
        .format(kind)
        .editor_mode(p.QueryEditorMode.CODE)
        .datasource(DATASOURCE)
    )
    return made.instant() if kind == p.PromQueryFormat.TABLE else made.range()


# ---- panels -------------------------------------------------------------------------------------

Size = tuple[int, int]  # of 24 columns, and rows
Steps = Sequence[tuple[float | None, str]]  # from this value on, this colour

YES_NO = {1: ("yes", GOOD), 0: ("NO", BAD)}
CALM: Steps = [(None, GOOD), (1, BAD)]


def prop(name: str, value: Any) -> d.DynamicConfigValue:
    """Return one property of an override."""
    return d.DynamicConfigValue(id_val=name, value=value)


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    """Return thresholds in the unit of the panel."""
    return (
        dashboard.ThresholdsConfig()
        .mode(d.ThresholdsMode.ABSOLUTE)
        .steps([d.Threshold(value=value, color=color) for value, color in steps])
    )


def mapping(values: dict[Any, tuple[str, str]]) -> list[d.ValueMapping]:
    """Return a mapping of values to words and colours."""
    return [
        d.ValueMap(
            options={
                str(value): d.ValueMappingResult(text=word, color=color, index=index)
                for index, (value, (word, color)) in enumerate(values.items())
            }
        )
    ]


def described(panel: Any, title: str, text: str, size: Size, *, is_today: bool = False) -> Any:
    """Give a panel what every panel has."""
    panel.title(title).description(text).span(size[0]).height(size[1]).datasource(DATASOURCE)
    return panel.time_from("now/d").hide_time_override(True) if is_today else panel


def number(  # noqa: PLR0913 - what a number can be
    title: str,
    about: str,
    query: Query,
    *,
    unit: str = "short",
    size: Size = (4, 4),
    steps: Steps = ((None, NEUTRAL),),
    today: bool = False,
    none: str = "-",
    decimals: int = 0,
) -> stat.Panel:
    """Return one figure, or one for each series, coloured by thresholds."""
    panel = (
        stat.Panel()
        .unit(unit)
        .decimals(decimals)
        .no_value(none)
        .thresholds(thresholds(steps))
        .color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.THRESHOLDS))
        .color_mode(c.BigValueColorMode.VALUE)
        .graph_mode(c.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .with_target(target(query, "A").instant())
    )
    return described(panel, title, about, size, is_today=today)


def series(  # noqa: PLR0913 - what a graph can be
    title: str,
    about: str,
    *queries: Query,
    unit: str = "short",
    size: Size = (12, 8),
    colors: dict[str, str] | None = None,
    bars: bool = False,
    steps: Steps = (),
    top: float | None = None,
    every: str = "",
    dashed: str = "",
) -> timeseries.Panel:
    """Return lines or stacked bars over time, with a legend that is a sorted table.

    colors: series by name; steps: dashed lines; dashed: series that are drawn dashed, by regexp;
    every: the shortest interval, for counters that seldom move.
    """
    panel = (
        timeseries.Panel()
        .unit(unit)
        .min(0)
        .draw_style(c.GraphDrawStyle.BARS if bars else c.GraphDrawStyle.LINE)
        .line_width(0 if bars else 2)
        .fill_opacity(80 if bars else 0)
        .show_points(c.VisibilityMode.NEVER if bars else c.VisibilityMode.AUTO)
        .color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(c.LegendDisplayMode.TABLE)
            .placement(c.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "mean", "max"])
            .sort_by("Max")
            .sort_desc(True)
        )
        .tooltip(
            common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING)
        )
    )
    if bars:
        panel.stacking(common.StackingConfig().mode(c.StackingMode.NORMAL).group("A"))
    if top is not None:
        panel.max(top)
    if every:
        panel.interval(every)
    if steps:
        panel.thresholds(thresholds(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(c.GraphThresholdsStyleMode.DASHED)
        )
    for index, query in enumerate(queries):
        panel.with_target(target(query, chr(ord("A") + index)))
    for name, color in (colors or {}).items():
        panel.override_by_regexp(name, [prop("color", {"mode": "fixed", "fixedColor": color})])
    if dashed:
        panel.override_by_regexp(
            dashed,
            [
                prop("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
                prop("custom.lineWidth", 1),
                prop("custom.showPoints", "never"),
            ],
        )
    return described(panel, title, about, size)


@dataclass(frozen=True)
class Column:
    """One figure of a table: its heading, query, unit and colours."""

    title: str
    expr: str
    unit: str = "short"
    steps: Steps = ()
    words: dict[Any, tuple[str, str]] | None = None
    decimals: int = 0


def properties(column: Column) -> list[d.DynamicConfigValue]:
    """Return how a column is shown."""
    shown = [prop("unit", column.unit), prop("decimals", column.decimals)]
    if column.words:
        shown.append(prop("mappings", mapping(column.words)))
    if column.steps:
        shown.append(prop("thresholds", thresholds(column.steps).build()))
    if column.steps or column.words:
        shown.append(prop("custom.cellOptions", {"type": "color-text"}))
    return shown


def listing(  # noqa: PLR0913 - what a table can be
    title: str,
    about: str,
    keys: dict[str, str],
    *columns: Column,
    sort: str,
    descending: bool = True,
    size: Size = (24, 8),
    today: bool = False,
    links: dict[str, list[d.DynamicConfigValue]] | None = None,
) -> table.Panel:
    """Return a table with a row for each combination of the labels in keys (label: heading).

    links: more properties, by heading.
    """
    refs = [chr(ord("A") + index) for index in range(len(columns))]
    # Grafana calls the values of one query `Value`, those of several `Value #A` and so on.
    names = [f"Value #{ref}" for ref in refs] if len(refs) > 1 else ["Value"]
    order = [*keys, *names]
    panel = (
        table.Panel()
        .no_value("-")
        .unit("short")
        .align(c.FieldTextAlignment.AUTO)
        .inspect(False)
        .sort_by([common.TableSortByFieldState().display_name(sort).desc(descending)])
        .with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            d.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": {name: index for index, name in enumerate(order)},
                    "renameByName": {
                        **keys,
                        **dict(zip(names, (column.title for column in columns))),
                    },
                },
            )
        )
    )
    for ref, column in zip(refs, columns):
        panel.with_target(target(Query(column.expr), ref, p.PromQueryFormat.TABLE))
        panel.override_by_name(column.title, properties(column))
    for heading, more in (links or {}).items():
        panel.override_by_name(heading, more)
    return described(panel, title, about, size, is_today=today)


def bars(  # noqa: PLR0913 - what a bar can be
    title: str, about: str, query: Query, *, steps: Steps, low: float, size: Size
) -> bargauge.Panel:
    """Return one horizontal bar a series, of ratios up to 1."""
    panel = (
        bargauge.Panel()
        .unit("percentunit")
        .min(low)
        .max(1)
        .decimals(0)
        .no_value("-")
        .thresholds(thresholds(steps))
        .color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.THRESHOLDS))
        .orientation(c.VizOrientation.HORIZONTAL)
        .display_mode(c.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .with_target(target(query, "A").instant())
    )
    return described(panel, title, about, size)


def heat(title: str, about: str, query: Query, *, unit: str, size: Size) -> heatmap.Panel:
    """Return a heat map of a histogram whose buckets are the series."""
    panel = (
        heatmap.Panel()
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(h.HeatmapColorMode.SCHEME)
            .scheme("Viridis")
            .scale(h.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(32)
        )
        .y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(c.AxisPlacement.LEFT))
        .cell_values(heatmap.CellValues().unit("short").decimals(1))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .scale_distribution(common.ScaleDistributionConfig().type(c.ScaleDistribution.LINEAR))
        .show_legend()
        .mode(c.TooltipDisplayMode.SINGLE)
        .unit(unit)
        .interval("10m")
        .with_target(target(query, "A", p.PromQueryFormat.HEATMAP))
    )
    return described(panel, title, about, size)


def states(
    title: str, about: str, query: Query, *, words: dict[Any, tuple[str, str]], size: Size = (12, 8)
) -> statetimeline.Panel:
    """Return a band a series, coloured by the value's word."""
    panel = (
        statetimeline.Panel()
        .unit("short")
        .mappings(mapping(words))
        .color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.THRESHOLDS))
        .thresholds(thresholds([(None, QUIET)]))
        .merge_values(True)
        .line_width(0)
        .fill_opacity(70)
        .show_value(c.VisibilityMode.NEVER)
        .with_target(target(query, "A"))
    )
    return described(panel, title, about, size)


def note(title: str, about: str, content: str, size: Size) -> text.Panel:
    """Return a text."""
    panel = text.Panel().mode(t.TextMode.MARKDOWN).content(content)
    return described(panel, title, about, size)


# ---- pages --------------------------------------------------------------------------------------


def choice(name: str, label: str, values: str) -> dashboard.QueryVariable:
    """Return a variable whose values Prometheus knows; several or all can be chosen."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query({"query": values, "refId": name})
        .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(d.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(d.VariableOption(text=["All"], value=["$__all"], selected=True))
    )


def page(
    uid: str, title: str, question: str, *contents: Any, start: str, queues: bool = False
) -> dashboard.Dashboard:
    """Return a dashboard that answers a question.

    contents: titles of rows, each followed by its panels, whose widths fill the 24 columns;
    start: the first time range, which ends now; queues: whether queues can be chosen.
    """
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(question)
        .tags([TAG])
        .timezone("browser")
        .time(start, "now")
        .refresh("30s")
        .tooltip(d.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(
            dashboard.DatasourceVariable("datasource")
            .label("Data source")
            .type("prometheus")
            .current(d.VariableOption(text="Asterisk", value=DATASOURCE_UID, selected=True))
        )
        .with_variable(choice("pbx", "PBX", "label_values(asterisk_up, instance)"))
    )
    if queues:
        made.with_variable(
            choice("queue", "Queue", f"label_values(asterisk_queue_callers{{{PBX}}}, queue)")
        )
    (
        made.with_variable(
            dashboard.ConstantVariable("runbooks")
            .value(RUNBOOKS)
            .description("Where the runbooks are; written by the role grafana.")
        )
        .annotation(
            dashboard.AnnotationQuery()
            .name("Alerts")
            .datasource(DATASOURCE)
            .enable(True)
            .icon_color(BAD)
            .expr(f'ALERTS{{alertstate="firing", {PBX}}}')
        )
        .link(
            dashboard.DashboardLink("Asterisk")
            .type(d.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
        .link(
            dashboard.DashboardLink("Runbooks")
            .type(d.DashboardLinkType.LINK)
            .icon("doc")
            .url("${runbooks}/index.html")
            .target_blank(True)
        )
    )
    for item in contents:
        if isinstance(item, str):
            made.with_row(dashboard.Row(item))
        else:
            made.with_panel(item)
    return made


# ---- the dashboards -----------------------------------------------------------------------------

ALERT_KEYS = {
    "severity": "Severity",
    "alertname": "Alert",
    "instance": "PBX",
    "queue": "Queue",
    "destination": "Destination",
    "trunk": "Trunk",
    "endpoint": "Endpoint",
    "member": "Member",
    "source": "Source",
}
SEVERITIES = {
    "critical": ("critical", BAD),
    "warning": ("warning", WARN),
    "info": ("info", OFFERED),
}


def firing(severity: str) -> str:
    """Return how many alerts of a severity fire, 0 when none does."""
    return f'count(ALERTS{{alertstate="firing", severity="{severity}"}}) or vector(0)'


def overview() -> dashboard.Dashboard:
    """Build the first page."""
    alert_link = {
        "title": "Runbook",
        "url": "${runbooks}/${__value.text}.html",
        "targetBlank": True,
    }
    by = "instance, queue"
    return page(
        "asterisk-overview",
        "Asterisk: overview",
        "Is anything wrong, and how many calls are there today?",
        "Is anything wrong?",
        number(
            "Critical alerts",
            "Alerts that fire now and should wake somebody, of every PBX and of the monitoring"
            " itself, whatever is chosen above.",
            Query(firing("critical")),
            steps=CALM,
        ),
        number(
            "Warnings",
            "Alerts that fire now and can wait for working hours, of every PBX.",
            Query(firing("warning")),
            steps=[(None, GOOD), (1, WARN)],
        ),
        number(
            "For information",
            "Alerts that fire now and need nobody, of every PBX.",
            Query(firing("info")),
            steps=[(None, GOOD), (1, OFFERED)],
        ),
        listing(
            "PBXs",
            "Exporter: it answers Prometheus. Asterisk: AMI took the exporter's login and answered"
            " in time. Not called back: missed calls of the last 30 days whose caller has not got"
            " through since.",
            {"instance": "PBX"},
            Column("Exporter", f'max by (instance) (up{{job="asterisk", {PBX}}})', words=YES_NO),
            Column("Asterisk", f"max by (instance) (asterisk_up{{{PBX}}})", words=YES_NO),
            Column("Calls", f"sum by (instance) (asterisk_calls{{{PBX}}})"),
            Column("Waiting", f"sum by (instance) (asterisk_queue_callers{{{PBX}}})"),
            Column(
                "Not called back",
                f"sum by (instance) (asterisk_missed_calls_outstanding{{{PBX}}})",
                steps=CALM,
            ),
            Column(
                "Asterisk started",
                f"max by (instance) (asterisk_start_timestamp_seconds{{{PBX}}}) * 1000",
                unit="dateTimeFromNow",
            ),
            sort="Asterisk",
            descending=False,
            size=(12, 4),
        ),
        listing(
            "Alerts that fire",
            "Of every PBX and of the monitoring itself, whatever is chosen above. A click on an"
            " alert opens its runbook.",
            ALERT_KEYS,
            Column(
                "Since",
                # Same labels but alertstate; ALERTS is 1, the other is the time.
                f"max by ({', '.join(ALERT_KEYS)}) (ALERTS_FOR_STATE"
                ' * ignoring(alertstate) ALERTS{alertstate="firing"}) * 1000',
                unit="dateTimeFromNow",
            ),
            sort="Severity",
            descending=False,
            size=(24, 7),
            links={
                "Alert": [prop("links", [alert_link])],
                "Severity": [
                    prop("mappings", mapping(SEVERITIES)),
                    prop("custom.cellOptions", {"type": "color-text"}),
                ],
            },
        ),
        "Today",
        number(
            "Calls now",
            "Calls on the PBX now; a call with several channels is one.",
            Query(f"sum(asterisk_calls{{{PBX}}})"),
        ),
        number(
            "Calls today",
            "Calls that ended today, in any direction. A call is all records with one linkedid.",
            Query(f"sum(increase(asterisk_calls_total{{{PBX}}}[$__range]))"),
            today=True,
        ),
        number(
            "Missed today",
            "Inbound calls of today in which nobody spoke to the caller. An IVR or a voicemail box"
            " is nobody.",
            Query(f"sum(increase(asterisk_missed_calls_total{{{PBX}}}[$__range]))"),
            today=True,
            steps=[(None, GOOD), (0.5, UNANSWERED)],
        ),
        number(
            "Not called back",
            "Missed calls of the last 30 days whose caller has not got through since and was not"
            " called back; callers who withheld their number cannot be.",
            Query(f"sum(asterisk_missed_calls_outstanding{{{PBX}}})"),
            steps=CALM,
        ),
        number(
            "Oldest of these",
            "How long ago the oldest missed call was that nobody has called back.",
            Query(
                "time() - min(asterisk_missed_calls_outstanding_oldest_timestamp_seconds"
                f"{{{PBX}}} > 0)"
            ),
            unit="s",
            none="none",
            steps=[(None, NEUTRAL), (3600, WARN), (86400, BAD)],
        ),
        number(
            "Service level today",
            "Of all queues: answered in service level / (offered - short abandoned). Nothing"
            " offered has no value. The colours are those of an objective of 80 %; each queue's own"
            " is below.",
            Query(service_level_today("job", PBX)),
            unit="percentunit",
            today=True,
            none="nothing offered",
            steps=[(None, BAD), (0.7, WARN), (0.8, GOOD)],
        ),
        "Which queues suffer?",
        listing(
            "Queues today",
            "Waiting, longest wait and available are of now, the rest of today. Error budget left:"
            " of the last 30 days, 100 % is untouched and below 0 % overspent. Sorted by service"
            " level, the worst first.",
            {"instance": "PBX", "queue": "Queue"},
            Column("Waiting", f"sum by ({by}) (asterisk_queue_callers{{{PBX}}})"),
            Column(
                "Longest wait",
                f"max by ({by}) (asterisk_queue_longest_wait_seconds{{{PBX}}})",
                unit="s",
            ),
            Column(
                "Available",
                f"max by ({by}) (asterisk_queue_members_available{{{PBX}}})",
                steps=[(None, BAD), (1, GOOD)],
            ),
            Column("Offered", today("asterisk_queue_calls_offered_total", by)),
            Column(
                "Unanswered",
                today("asterisk_queue_calls_unanswered_total", by),
                steps=[(None, GOOD), (0.5, UNANSWERED)],
            ),
            Column(
                "Service level",
                service_level_today(by, PBX),
                unit="percentunit",
                steps=[(None, BAD), (0.7, WARN), (0.8, GOOD)],
            ),
            Column(
                "Objective",
                "max by (instance, queue)"
                f" (queue:asterisk_queue_service_level_objective:ratio{{{PBX}}})",
                unit="percentunit",
            ),
            Column(
                "Error budget left",
                "max by (instance, queue) (queue:asterisk_queue_service_level_budget_"
                f"remaining:ratio30d{{{PBX}}})",
                unit="percentunit",
                steps=[(None, BAD), (0, WARN), (0.25, GOOD)],
            ),
            sort="Service level",
            descending=False,
            today=True,
            size=(14, 9),
        ),
        listing(
            "Missed calls by destination today",
            "Destination: the first queue that the call entered, or the class of the number"
            " dialled. Not called back: of the last 30 days.",
            {"instance": "PBX", "destination": "Destination"},
            Column(
                "Missed",
                today("asterisk_missed_calls_total", "instance, destination"),
                steps=[(None, GOOD), (0.5, UNANSWERED)],
            ),
            Column(
                "Not called back",
                f"sum by (instance, destination) (asterisk_missed_calls_outstanding{{{PBX}}})",
                steps=CALM,
            ),
            Column(
                "Oldest",
                "min by (instance, destination)"
                " (asterisk_missed_calls_outstanding_oldest_timestamp_seconds"
                f"{{{PBX}}}) * 1000",
                unit="dateTimeFromNow",
            ),
            sort="Not called back",
            today=True,
            size=(10, 9),
        ),
        "Calls over time",
        series(
            "Inbound calls",
            "Inbound calls an hour: answered, or missed because nobody spoke to the caller.",
            Query(
                per_hour("asterisk_calls_total", "outcome", f'direction="inbound", {PBX}'),
                "{{outcome}}",
            ),
            unit="suffix: /h",
            bars=True,
            every="10m",
            colors={"^answered$": ANSWERED, "^missed$": UNANSWERED},
        ),
        series(
            "Calls by direction",
            "Calls an hour that ended, by direction.",
            Query(per_hour("asterisk_calls_total", "direction"), "{{direction}}"),
            unit="suffix: /h",
            bars=True,
            every="10m",
            colors={"^inbound$": OFFERED, "^outbound$": NEUTRAL, "^internal$": QUIET},
        ),
        "Which PBX?",
        series(
            "Calls by PBX",
            "Calls an hour that ended, of each PBX.",
            Query(per_hour("asterisk_calls_total", "instance"), "{{instance}}"),
            unit="suffix: /h",
            bars=True,
            every="10m",
        ),
        series(
            "Service level by PBX",
            "Of all queues of a PBX, over an hour: answered in service level / (offered - short"
            " abandoned). Dashed: of all PBXs, whatever is chosen above.",
            Query(f"instance:asterisk_queue_service_level:ratio_rate1h{{{PBX}}}", "{{instance}}"),
            Query("job:asterisk_queue_service_level:ratio_rate1h", "all PBXs"),
            unit="percentunit",
            top=1,
            dashed="^all PBXs$",
        ),
        start="now/d",
    )


# The windows of the alert QueueServiceLevelBurn.
BURN_WINDOWS = ("1h", "6h", "3d")


def queues() -> dashboard.Dashboard:
    """Build the page of queues and their service level."""
    by = "instance, queue"
    legend = "{{queue}} on {{instance}}"

    def recorded(name: str) -> str:
        return f"queue:asterisk_queue_{name}{{{QUEUE}}}"

    formulas = {
        "(offered - short)": "service_level:ratio_rate1d",
        "offered": "service_level_of_offered:ratio_rate1d",
        "answered": "service_level_of_answered:ratio_rate1d",
        "Asterisk SL": "service_level_asterisk:ratio_rate1d",
        "Asterisk SL2": "service_level_asterisk2:ratio_rate1d",
    }
    return page(
        "asterisk-queues",
        "Asterisk: queues and SLA",
        "Are callers answered in time, in which queue not, and how much may still go wrong?",
        "Now",
        listing(
            "Queues now",
            "Asked of Asterisk at each scrape. Over service level: callers who wait now, longer"
            " than the queue's service level. Available: members not in use, not paused, not in"
            " wrap-up.",
            {"instance": "PBX", "queue": "Queue"},
            Column("Waiting", f"sum by ({by}) (asterisk_queue_callers{{{QUEUE}}})"),
            Column(
                "Longest wait",
                f"max by ({by}) (asterisk_queue_longest_wait_seconds{{{QUEUE}}})",
                unit="s",
            ),
            Column(
                "Over service level",
                f"sum by ({by}) (asterisk_queue_callers_over_service_level{{{QUEUE}}})",
                steps=CALM,
            ),
            Column(
                "Service level after",
                f"max by ({by}) (asterisk_queue_service_level_seconds{{{QUEUE}}})",
                unit="s",
            ),
            Column("Members", f"sum by ({by}) (asterisk_queue_members{{{QUEUE}}})"),
            Column(
                "Available",
                f"max by ({by}) (asterisk_queue_members_available{{{QUEUE}}})",
                steps=[(None, BAD), (1, GOOD)],
            ),
            Column(
                "Paused",
                f"max by ({by}) (asterisk_queue_members_paused{{{QUEUE}}})",
                steps=[(None, NEUTRAL), (1, PAUSED)],
            ),
            sort="Longest wait",
            size=(24, 7),
        ),
        series(
            "Waiting callers",
            "Callers who wait, at each scrape.",
            Query(f"sum by ({by}) (asterisk_queue_callers{{{QUEUE}}})", legend),
            size=(8, 8),
        ),
        series(
            "Longest wait",
            "How long the first of the waiting callers has waited, 0 when nobody waits; dashed,"
            " when QueueWaitLong fires.",
            Query(f"max by ({by}) (asterisk_queue_longest_wait_seconds{{{QUEUE}}})", legend),
            Query(recorded("longest_wait_threshold:seconds"), f"alert in {legend}"),
            dashed="^alert",
            unit="s",
            size=(8, 8),
        ),
        series(
            "Members by state",
            "Members of the chosen queues by the state of their device; who is in two queues is"
            " counted in both.",
            Query(f"sum by (state) (asterisk_queue_members{{{QUEUE}}}) > 0", "{{state}}"),
            size=(8, 8),
            colors={
                "^not_in_use$": ANSWERED,
                "^(in_use|busy)$": NEUTRAL,
                "^(ringing|ring_in_use)$": WAITING,
                "^(unavailable|invalid)$": BAD,
                "^unknown$": QUIET,
                "^on_hold$": PAUSED,
            },
        ),
        "Service level",
        series(
            "Service level over the last hour",
            "Answered in service level / (offered - short abandoned), and dashed the objective of"
            " the inventory. Nothing offered has no value.",
            Query(recorded("service_level:ratio_rate1h"), legend),
            Query(recorded("service_level_objective:ratio"), f"objective of {legend}"),
            unit="percentunit",
            top=1,
            dashed="^objective",
        ),
        listing(
            "Service level of the last day, by formula",
            "Answered in service level over: offered - short abandoned (the one that alerts use),"
            " offered, answered; and app_queue's own SL (answered in service level / answered) and"
            " SL2 (answered or abandoned in service level / answered or abandoned).",
            {"instance": "PBX", "queue": "Queue"},
            *[
                Column(title, f"max by ({by}) ({recorded(name)})", unit="percentunit", decimals=1)
                for title, name in formulas.items()
            ],
            sort="(offered - short)",
            descending=False,
            size=(12, 8),
        ),
        bars(
            "Error budget left, 30 days",
            "The objective allows a share of calls not to be answered in time. 100 %: none of it"
            " is used; 0 %: all of it; below: overspent.",
            Query(recorded("service_level_budget_remaining:ratio30d"), legend),
            steps=[(None, BAD), (0, WARN), (0.25, GOOD)],
            low=-1,
            size=(6, 8),
        ),
        series(
            "How fast the error budget burns",
            "Share of calls not answered in time / share that the objective allows, over an hour,"
            " six hours and three days. At 1 the budget lasts just 30 days.",
            *[
                Query(
                    f"(1 - {recorded(f'service_level:ratio_rate{window}')})"
                    f" / (1 - {recorded('service_level_objective:ratio')})",
                    f"{window}: {legend}",
                )
                for window in BURN_WINDOWS
            ],
            steps=[(None, "transparent"), (1, WARN)],
            size=(9, 8),
        ),
        series(
            "How near the alerts on it are",
            "Share of calls not answered in time / share at which QueueServiceLevelBurn fires. It"
            " fires at 100 % if enough calls were offered and a shorter window is at 100 %, too.",
            *[
                Query(
                    f"(1 - {recorded(f'service_level:ratio_rate{window}')})"
                    " / on (job, instance, queue)"
                    " queue:asterisk_queue_service_level_burn_threshold:ratio"
                    f'{{window="{window}", {QUEUE}}}',
                    f"{window}: {legend}",
                )
                for window in BURN_WINDOWS
            ],
            unit="percentunit",
            steps=[(None, "transparent"), (1, BAD)],
            size=(9, 8),
        ),
        "Visits",
        listing(
            "Visits today",
            "A visit is one caller in one queue. Offered: visits that began, and callers whom the"
            " queue refused. Short abandoned: hung up within the first seconds; these are in"
            " unanswered, too.",
            {"instance": "PBX", "queue": "Queue"},
            Column("Offered", today("asterisk_queue_calls_offered_total", by, QUEUE)),
            Column("Answered", today("asterisk_queue_calls_answered_total", by, QUEUE)),
            Column(
                "In service level",
                today("asterisk_queue_calls_answered_in_service_level_total", by, QUEUE),
            ),
            Column(
                "Unanswered",
                today("asterisk_queue_calls_unanswered_total", by, QUEUE),
                steps=[(None, GOOD), (0.5, UNANSWERED)],
            ),
            Column(
                "Short abandoned", today("asterisk_queue_calls_short_abandoned_total", by, QUEUE)
            ),
            Column(
                "Service level",
                service_level_today(by, QUEUE),
                unit="percentunit",
                steps=[(None, BAD), (0.7, WARN), (0.8, GOOD)],
            ),
            sort="Offered",
            today=True,
            size=(12, 8),
        ),
        series(
            "Answered and unanswered",
            "Visits an hour: together they are all that ended.",
            Query(
                f"sum(rate(asterisk_queue_calls_answered_total{{{QUEUE}}}"
                "[$__rate_interval])) * 3600",
                "answered",
            ),
            Query(
                f"sum(rate(asterisk_queue_calls_unanswered_total{{{QUEUE}}}"
                "[$__rate_interval])) * 3600",
                "unanswered",
            ),
            unit="suffix: /h",
            bars=True,
            every="10m",
            colors={"^answered$": ANSWERED, "^unanswered$": UNANSWERED},
        ),
        series(
            "Offered by queue",
            "Visits an hour that began, and callers whom the queue refused.",
            Query(per_hour("asterisk_queue_calls_offered_total", by, QUEUE), legend),
            unit="suffix: /h",
            every="10m",
        ),
        series(
            "Why visits were not answered",
            "Unanswered visits an hour by reason: abandoned (hung up), timeout, empty (no agent"
            " left), key, withdrawn, incompatible, lost (Asterisk died); full, join_empty and"
            " closed were refused.",
            Query(
                per_hour("asterisk_queue_calls_unanswered_total", "reason", QUEUE) + " > 0",
                "{{reason}}",
            ),
            unit="suffix: /h",
            bars=True,
            every="10m",
        ),
        "Waiting and talking",
        heat(
            "How long callers waited",
            "Visits by the time that they waited, answered or not; refused and lost ones are not"
            " in it. Every queue's service level is the edge of a bucket.",
            Query(
                f"sum by (le) (increase(asterisk_queue_wait_seconds_bucket{{{QUEUE}}}"
                "[$__rate_interval]))",
                "{{le}}",
            ),
            unit="s",
            size=(12, 8),
        ),
        series(
            "Abandonment over the last hour",
            "(Abandoned - short abandoned) / (offered - short abandoned).",
            Query(recorded("abandonment:ratio_rate1h"), legend),
            unit="percentunit",
            top=1,
        ),
        series(
            "Speed of answer over the last hour",
            "Mean wait of the visits that were answered (ASA).",
            Query(recorded("speed_of_answer_seconds:mean_rate1h"), legend),
            unit="s",
        ),
        series(
            "Talk time over the last hour",
            "Mean talk time of answered visits (AHT, without wrap-up).",
            Query(recorded("handle_seconds:mean_rate1h"), legend),
            unit="s",
        ),
        start="now-24h",
        queues=True,
    )


def agents() -> dashboard.Dashboard:
    """Build the page of agents."""
    by = "instance, member"
    legend = "{{member}} on {{instance}}"
    seconds = "asterisk_queue_agent_seconds_total"

    def in_state(state: str) -> str:
        return from_nothing(seconds, by, f'state="{state}", {PBX}')

    def or_none(expr: str) -> str:
        return f"({expr} or {in_state('logged_in')} * 0)"

    def share(state: str) -> str:
        return (
            f'topk(20, sum by ({by}) (rate({seconds}{{state="{state}", {PBX}}}[$__rate_interval])))'
        )

    return page(
        "asterisk-agents",
        "Asterisk: agents",
        "Who works how much, and who lets it ring?",
        "Now",
        number(
            "Available now",
            "Members not in use, not paused, not in wrap-up; who is in two queues is counted in"
            " both.",
            Query(f"sum(asterisk_queue_members_available{{{QUEUE}}})"),
            steps=[(None, BAD), (1, GOOD)],
            size=(6, 4),
        ),
        number(
            "Paused now",
            "Members who are paused, in any of the chosen queues.",
            Query(f"sum(asterisk_queue_members_paused{{{QUEUE}}})"),
            steps=[(None, NEUTRAL), (1, PAUSED)],
            size=(6, 4),
        ),
        number(
            "In a call",
            "Members whose device is in use or busy, in any of the chosen queues.",
            Query(
                f'sum(asterisk_queue_members{{state=~"in_use|busy|ring_in_use|on_hold", {QUEUE}}})'
            ),
            size=(6, 4),
        ),
        number(
            "Mean occupancy",
            "Talking / (logged in - paused), over all members who log in, in the last hour.",
            Query(
                f"clamp_max(sum(member:asterisk_queue_agent_talking_seconds:rate1h{{{PBX}}})"
                f" / (sum(member:asterisk_queue_agent_ready_seconds:rate1h{{{PBX}}}) > 0), 1)"
            ),
            unit="percentunit",
            none="nobody logs in",
            steps=[(None, GOOD), (0.85, WARN), (0.95, BAD)],
            size=(6, 4),
        ),
        "In the time range",
        listing(
            "Members",
            "Talking is counted when the talk ends. Members of the configuration never log in, so"
            " they have no time logged in and no occupancy. Let it ring: the agent's figure, never"
            " a missed call.",
            {"instance": "PBX", "member": "Member"},
            Column("Talking", in_state("talking"), unit="s"),
            Column("Logged in", in_state("logged_in"), unit="s"),
            Column("Paused", in_state("paused"), unit="s"),
            Column(
                "Occupancy",
                f"{or_none(in_state('talking'))}"
                f" / ({in_state('logged_in')} - {or_none(in_state('paused'))} > 0)",
                unit="percentunit",
            ),
            Column(
                "Let it ring",
                from_nothing("asterisk_queue_ring_no_answer_total", by, QUEUE),
                steps=[(None, GOOD), (0.5, WARN)],
            ),
            sort="Talking",
            size=(24, 10),
        ),
        "Over time",
        series(
            "Occupancy over the last hour",
            "Talking / (logged in - paused), of members who log in; the 20 highest.",
            Query(f"topk(20, member:asterisk_queue_agent_occupancy:ratio_rate1h{{{PBX}}})", legend),
            unit="percentunit",
            steps=[(None, "transparent"), (0.85, WARN)],
        ),
        series(
            "Talking",
            "Share of time in talks, counted when the talk ends, so a long talk can show more than"
            " 100 % for a moment; the 20 highest.",
            Query(share("talking"), legend),
            unit="percentunit",
            every="10m",
        ),
        series(
            "Paused",
            "Share of time that members were paused; the 20 highest.",
            Query(share("paused"), legend),
            unit="percentunit",
            every="10m",
        ),
        series(
            "Let it ring",
            "Times an hour that a member was rung and did not answer; the 20 highest.",
            Query(
                "topk(20, " + per_hour("asterisk_queue_ring_no_answer_total", by, QUEUE) + ")",
                legend,
            ),
            unit="suffix: /h",
            bars=True,
            every="10m",
        ),
        series(
            "Available and paused",
            "Members of each queue who are available, and who are paused.",
            Query(
                f"sum by (instance, queue) (asterisk_queue_members_available{{{QUEUE}}})",
                "available in {{queue}} on {{instance}}",
            ),
            Query(
                f"sum by (instance, queue) (asterisk_queue_members_paused{{{QUEUE}}})",
                "paused in {{queue}} on {{instance}}",
            ),
            dashed="^paused",
            size=(24, 8),
        ),
        start="now/d",
        queues=True,
    )


def trunks() -> dashboard.Dashboard:
    """Build the page of trunks and endpoints."""
    by = "instance, trunk"
    legend = "{{trunk}} on {{instance}}"

    def recorded(name: str) -> str:
        return f"trunk:asterisk_trunk_{name}{{{PBX}}}"

    return page(
        "asterisk-trunks",
        "Asterisk: trunks and endpoints",
        "Do calls get out, and are trunks and phones there?",
        "Trunks",
        listing(
            "Trunks today",
            "Outbound legs. ASR: answered / attempts. NER: (attempts - network failures) /"
            " attempts. ACD: talk time / answered.",
            {"instance": "PBX", "trunk": "Trunk"},
            Column("Attempts", today("asterisk_trunk_attempts_total", by)),
            Column("Answered", today("asterisk_trunk_answered_total", by)),
            Column(
                "Network failures",
                today("asterisk_trunk_network_failures_total", by),
                steps=[(None, GOOD), (0.5, BAD)],
            ),
            Column("Talk time", today("asterisk_trunk_talk_seconds_total", by), "s"),
            Column(
                "ASR, 1 day",
                f"max by ({by}) ({recorded('answer_seizure:ratio_rate1d')})",
                unit="percentunit",
            ),
            Column(
                "NER, 1 day",
                f"max by ({by}) ({recorded('network_effectiveness:ratio_rate1d')})",
                unit="percentunit",
                steps=[(None, BAD), (0.95, GOOD)],
            ),
            Column(
                "ACD, 1 day",
                f"max by ({by}) ({recorded('call_duration_seconds:mean_rate1d')})",
                unit="s",
            ),
            sort="Attempts",
            today=True,
            size=(24, 6),
        ),
        series(
            "Attempts",
            "Outbound legs an hour, answered or not.",
            Query(per_hour("asterisk_trunk_attempts_total", by), legend),
            unit="suffix: /h",
            every="10m",
        ),
        series(
            "ASR over the last hour",
            "Answer-seizure ratio: answered / attempts. It falls with busy lines and people who do"
            " not answer, too.",
            Query(recorded("answer_seizure:ratio_rate1h"), legend),
            unit="percentunit",
            top=1,
        ),
        series(
            "NER over the last hour",
            "Network effectiveness: (attempts - network failures) / attempts. It falls with the"
            " trunk and the network only.",
            Query(recorded("network_effectiveness:ratio_rate1h"), legend),
            unit="percentunit",
            top=1,
            steps=[(None, "transparent"), (0.95, BAD)],
        ),
        series(
            "ACD over the last hour",
            "Average call duration: talk time / answered.",
            Query(recorded("call_duration_seconds:mean_rate1h"), legend),
            unit="s",
        ),
        "Reachable and registered",
        states(
            "Trunks and watched endpoints",
            "Whether the endpoint is reachable: its device state is neither unavailable nor"
            " invalid.",
            Query(f"asterisk_endpoint_up{{{PBX}}}", "{{endpoint}} on {{instance}}"),
            words={1: ("reachable", GOOD), 0: ("UNREACHABLE", BAD)},
        ),
        states(
            "Outbound registrations",
            "Whether the registration at the provider is in the state Registered.",
            Query(f"asterisk_registration_up{{{PBX}}}", "{{registration}} on {{instance}}"),
            words={1: ("registered", GOOD), 0: ("NOT REGISTERED", BAD)},
        ),
        series(
            "Endpoints by state",
            "Phones and trunks by device state.",
            Query(f"sum by (state) (asterisk_endpoints{{{PBX}}}) > 0", "{{state}}"),
            colors={
                "^not_in_use$": ANSWERED,
                "^(in_use|busy)$": NEUTRAL,
                "^(ringing|ring_in_use)$": WAITING,
                "^(unavailable|invalid)$": BAD,
                "^unknown$": QUIET,
                "^on_hold$": PAUSED,
            },
        ),
        series(
            "Channels by state",
            "Channels that are up, ring or are rung, at each scrape.",
            Query(f"sum by (state) (asterisk_channels{{{PBX}}})", "{{state}}"),
        ),
        "Outbound calls and logins",
        series(
            "Outbound calls",
            "Outbound calls an hour by how they ended.",
            Query(
                per_hour("asterisk_calls_total", "outcome", f'direction="outbound", {PBX}')
                + " > 0",
                "{{outcome}}",
            ),
            unit="suffix: /h",
            bars=True,
            every="10m",
            colors={
                "^answered$": ANSWERED,
                "^missed$": UNANSWERED,
                "^busy$": WARN,
                "^failed$": PAUSED,
            },
        ),
        series(
            "Security events",
            "Events an hour by name, without what successful logins make. Wrong passwords in"
            " numbers are somebody guessing. Needs asterisk_exporter_events: true.",
            Query(
                per_hour(
                    "asterisk_security_events_total",
                    "event",
                    f'event!~"SuccessfulAuth|ChallengeSent", {PBX}',
                ),
                "{{event}}",
            ),
            unit="suffix: /h",
            every="10m",
        ),
        "Calls about which the CRM is asked",
        series(
            "CRM routing",
            "Inbound calls an hour by what came of asking the CRM. routed: it named a destination;"
            " no_route: it has no opinion; timeout, error, invalid: no usable answer, and the call"
            " went to its number's own destination; abandoned: the caller hung up meanwhile.",
            Query(per_hour("asterisk_route_requests_total", "result"), "{{result}}"),
            unit="suffix: /h",
            bars=True,
            every="10m",
            colors={
                "^routed$": ANSWERED,
                "^no_route$": NEUTRAL,
                "^timeout$": WARN,
                "^error$": BAD,
                "^invalid$": PAUSED,
                "^abandoned$": QUIET,
            },
        ),
        series(
            "Waiting for the CRM",
            "How long callers waited until it was known where they go. Above 2.5 s has no excuse.",
            Query(quantile(0.5, "asterisk_route_seconds", "", "$__rate_interval"), "half"),
            Query(quantile(0.95, "asterisk_route_seconds", "", "$__rate_interval"), "19 of 20"),
            unit="s",
            every="10m",
        ),
        start="now-24h",
    )


def voice() -> dashboard.Dashboard:
    """Build the page of voice quality."""
    loss = "asterisk_rtp_packet_loss_ratio"
    jitter = "asterisk_rtp_jitter_seconds"
    score = "asterisk_rtp_mes"
    trip = "asterisk_rtp_round_trip_seconds"
    window = "$__rate_interval"

    def worst(title: str, about: str, expr: str, unit: str, steps: Steps) -> stat.Panel:
        return number(
            title,
            about,
            Query(expr),
            unit=unit,
            steps=steps,
            size=(5, 5),
            none="no reports",
            decimals=1,
        )

    below = "Below this 19 of 20 reports were; dashed the median."

    def over_time(  # noqa: PLR0913 - what differs from graph to graph
        title: str, metric: str, unit: str, line: float, *, about: str = below, share: float = 0.95
    ) -> timeseries.Panel:
        return series(
            title,
            about,
            Query(quantile(share, metric, "direction", window), "{{direction}}"),
            Query(quantile(0.5, metric, "direction", window), "median {{direction}}"),
            unit=unit,
            every="10m",
            steps=[(None, "transparent"), (line, BAD)],
            dashed="^median",
            colors={"received": NEUTRAL, "sent": WARN},
        )

    return page(
        "asterisk-voice",
        "Asterisk: voice quality",
        "Do people understand each other?",
        "In the time range",
        note(
            "What this is made of",
            "Where the figures come from.",
            "One observation for each RTCP report of Asterisk. It needs `asterisk_exporter_events:"
            " true`; without it, and without calls, there is nothing to see. *received* is what"
            " reaches Asterisk, *sent* what arrives at the other end, as that end reports.",
            (4, 5),
        ),
        worst(
            "Packet loss, worst 5 %",
            "19 of 20 reports lost less, in the worse direction. From 3 % on people hear it.",
            f"max({quantile(0.95, loss, 'direction', '$__range')})",
            "percentunit",
            [(None, GOOD), (0.01, WARN), (0.03, BAD)],
        ),
        worst(
            "Jitter, worst 5 %",
            "19 of 20 reports had less, in the worse direction. Jitter buffers take about 30 ms.",
            f"max({quantile(0.95, jitter, 'direction', '$__range')})",
            "s",
            [(None, GOOD), (0.02, WARN), (0.03, BAD)],
        ),
        worst(
            "Round trip, worst 5 %",
            "19 of 20 reports had less. From 300 ms on people begin to interrupt each other.",
            quantile(0.95, trip, "", "$__range"),
            "s",
            [(None, GOOD), (0.2, WARN), (0.3, BAD)],
        ),
        worst(
            "MES, worst 5 %",
            "Asterisk's Media Experience Score, 0 to 100, 88 is flawless: 19 of 20 reports had a"
            " higher one, in the worse direction.",
            f"min({quantile(0.05, score, 'direction', '$__range')})",
            "short",
            [(None, BAD), (60, WARN), (75, GOOD)],
        ),
        "Over time",
        over_time("Packet loss", loss, "percentunit", 0.03),
        over_time("Jitter", jitter, "s", 0.03),
        series(
            "Round trip time",
            below,
            Query(quantile(0.95, trip, "", window), "round trip"),
            Query(quantile(0.5, trip, "", window), "median"),
            unit="s",
            every="10m",
            steps=[(None, "transparent"), (0.3, BAD)],
            dashed="^median",
        ),
        over_time(
            "MES",
            score,
            "short",
            60,
            about="Above this 19 of 20 reports were; dashed the median. 88 is flawless.",
            share=0.05,
        ),
        series(
            "Reports",
            "RTCP reports an hour: how much the figures above rest on.",
            Query(per_hour(f"{loss}_count", "direction"), "{{direction}}"),
            unit="suffix: /h",
            every="10m",
            colors={"received": NEUTRAL, "sent": WARN},
            size=(24, 7),
        ),
        start="now-24h",
    )


def exporter() -> dashboard.Dashboard:
    """Build the page about the exporter itself."""
    job = f'job="asterisk", {PBX}'

    def failing(metric: str) -> str:
        """Return how many series of a PBX are 0; unlike count(), sum() also gives 0."""
        return f"sum by (instance) ({metric}{{{PBX}}} == bool 0)"

    return page(
        "asterisk-exporter",
        "Asterisk: exporter",
        "Can the other figures be trusted?",
        "Is it complete?",
        listing(
            "Exporters",
            "Not permitted: AMI actions that Asterisk refuses the exporter. Drift: visits by which"
            " our figures and app_queue's own differ. Lag: age of the oldest written record that is"
            " not counted yet. Events: the connection for RTP and security events.",
            {"instance": "PBX"},
            Column("Answers", f"max by (instance) (up{{{job}}})", words=YES_NO),
            Column(
                "Collectors failing", failing("asterisk_exporter_collector_success"), steps=CALM
            ),
            Column("Not permitted", failing("asterisk_exporter_action_permitted"), steps=CALM),
            Column(
                "Drift",
                f"max by (instance) (abs(asterisk_exporter_queue_drift{{{PBX}}}))",
                steps=CALM,
            ),
            Column(
                "Lag",
                f"max by (instance) (asterisk_exporter_journal_lag_seconds{{{PBX}}})",
                unit="s",
                steps=[(None, GOOD), (60, WARN), (300, BAD)],
            ),
            Column(
                "Events",
                f"max by (instance) (asterisk_exporter_events_connected{{{PBX}}})",
                words=YES_NO,
            ),
            Column(
                "Started",
                f"max by (instance) (process_start_time_seconds{{{job}}}) * 1000",
                unit="dateTimeFromNow",
            ),
            sort="Answers",
            descending=False,
            size=(24, 6),
        ),
        states(
            "Collectors",
            "Whether the collector got and understood its answers.",
            Query(
                f"min by (collector) (asterisk_exporter_collector_success{{{PBX}}})",
                "{{collector}}",
            ),
            words={1: ("ok", GOOD), 0: ("FAILED", BAD)},
        ),
        series(
            "Drift",
            "Visits by which our figures and app_queue's Completed and Abandoned differ; anything"
            " but 0 for minutes is a fault of ours or of the log.",
            Query(f"asterisk_exporter_queue_drift{{{PBX}}}", "{{queue}} on {{instance}}"),
        ),
        "Journals",
        series(
            "Lag",
            "Age of the oldest written record that is not counted yet; while the source does not"
            " answer, the time since it last did.",
            Query(f"asterisk_exporter_journal_lag_seconds{{{PBX}}}", "{{source}} on {{instance}}"),
            unit="s",
            size=(8, 8),
        ),
        series(
            "Records",
            "Records of queue_log and call records read an hour.",
            Query(
                per_hour("asterisk_exporter_journal_records_total", "instance, source"),
                "{{source}} on {{instance}}",
            ),
            unit="suffix: /h",
            every="10m",
            size=(8, 8),
        ),
        series(
            "Malformed records",
            "Records an hour that lack what they must have.",
            Query(
                per_hour("asterisk_exporter_journal_malformed_total", "instance, source"),
                "{{source}} on {{instance}}",
            ),
            unit="suffix: /h",
            every="10m",
            size=(8, 8),
        ),
        series(
            "Age of the newest record",
            "Time since the newest record was written. It grows while nobody calls.",
            Query(
                f"time() - (asterisk_exporter_journal_last_record_timestamp_seconds{{{PBX}}} > 0)",
                "{{source}} on {{instance}}",
            ),
            unit="s",
        ),
        series(
            "Missed calls waiting for the notifier",
            "Missed calls that the CRM has not taken yet. Needs the per-call notifier.",
            Query(f"asterisk_notifier_pending_calls{{{PBX}}}", "pending on {{instance}}"),
        ),
        "Speed and size",
        series(
            "Scrape",
            "How long Prometheus waited for the whole answer.",
            Query(f"scrape_duration_seconds{{{job}}}", "{{instance}}"),
            unit="s",
        ),
        series(
            "Collectors' time",
            "Until the collector's answers were there and parsed, the slowest PBX. A scrape has"
            " 1.5 s for all of them.",
            Query(
                f"max by (collector) (asterisk_exporter_collector_duration_seconds{{{PBX}}})",
                "{{collector}}",
            ),
            unit="s",
        ),
        series(
            "Reconnects",
            "Connections to AMI after the first one, an hour: for actions and for events.",
            Query(
                per_hour("asterisk_exporter_ami_reconnects_total", "instance"),
                "actions on {{instance}}",
            ),
            Query(
                per_hour("asterisk_exporter_events_reconnects_total", "instance"),
                "events on {{instance}}",
            ),
            unit="suffix: /h",
            every="10m",
            size=(8, 8),
        ),
        series(
            "Memory",
            "Resident memory of the exporter.",
            Query(f"process_resident_memory_bytes{{{job}}}", "{{instance}}"),
            unit="bytes",
            size=(8, 8),
        ),
        series(
            "CPU",
            "Share of one core that the exporter uses.",
            Query(f"rate(process_cpu_seconds_total{{{job}}}[$__rate_interval])", "{{instance}}"),
            unit="percentunit",
            size=(8, 8),
        ),
        start="now-6h",
    )


DASHBOARDS = (overview, queues, agents, trunks, voice, exporter)

# ---- files --------------------------------------------------------------------------------------

ABOUT = """\
# Dashboards

Made by `roles/grafana/dashboards.py`; edit there, then run it. The role
[grafana](../roles/grafana/README.md) brings them into a Grafana. Each is made of Prometheus' data
alone, can be limited to some PBXs (and queues), shows alerts as marks on the time axis, and leads
to the others and to the runbooks.

What a figure counts: [metrics.md](metrics.md).
"""


def plain(built: Any) -> Any:
    """Return what the SDK built as JSON has it."""
    return json.loads(json.dumps(built, cls=JSONEncoder))


def as_json(model: dict[str, Any]) -> str:
    """Return the file of a dashboard."""
    for annotation in model["annotations"]["list"]:
        # What a mark says is not in the SDK's type.
        annotation |= {
            "titleFormat": "{{alertname}}",
            "textFormat": "{{queue}} {{destination}} {{trunk}} {{instance}}",
            "tagKeys": "severity",
        }
    for index, panel in enumerate(model["panels"], 1):
        panel["id"] = index
    return json.dumps(model, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def described_dashboards(models: dict[str, dict[str, Any]]) -> str:
    """Return docs/dashboards.md."""
    lines = [ABOUT, "| Dashboard | Answers |", "| --- | --- |"]
    lines += [
        f"| [{model['title']}](#{uid}) | {model['description']} |" for uid, model in models.items()
    ]
    for uid, model in models.items():
        lines += [f"\n## {uid}\n", f"**{model['title']}**: {model['description']}"]
        for panel in model["panels"]:
            if panel["type"] == "row":
                lines += [f"\n### {panel['title']}\n", "| Panel | Shows |", "| --- | --- |"]
            else:
                lines.append(f"| {panel['title']} | {panel['description']} |")
    return "\n".join(lines) + "\n"


def generate() -> dict[Path, str]:
    """Return the content that each generated file should have."""
    models = {}
    for made in DASHBOARDS:
        model = plain(made().build())
        models[model["uid"]] = model
    return {
        **{
            ROLE / "files" / "dashboards" / f"{uid}.json": as_json(model)
            for uid, model in models.items()
        },
        ROOT / "docs" / "dashboards.md": described_dashboards(models),
    }


def main() -> int:
    """Write what is out of date, or with --check name it; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check
    files = generate()
    stale = {
        path: content
        for path, content in files.items()
        if not path.exists() or path.read_text(encoding="utf-8") != content
    }
    gone = set((ROLE / "files" / "dashboards").glob("*.json")) - set(files)
    for path in sorted({*stale, *gone}):
        print(f"{path.relative_to(ROOT)} {'is out of date' if check else 'written'}")
        if check:
            continue
        if path in gone:
            path.unlink()
        else:
            path.write_text(stale[path], encoding="utf-8")
    return 1 if check and (stale or gone) else 0


if __name__ == "__main__":
    sys.exit(main())
