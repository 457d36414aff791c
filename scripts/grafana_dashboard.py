"""Grafana's JSON of the table of panels, built with Grafana's own types (`make gen`)."""

import json
from collections.abc import Mapping
from itertools import count
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as look
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import QueryEditorMode
from grafana_panels import ANNOTATIONS, COUNT, ROWS, STEP, Annotation, Panel

from fraudscale.dashboard import render
from fraudscale.dashboard.limits import Limit

UID: Final = "ml-model"
_SOURCE: Final = model.DataSourceRef("prometheus", "${datasource}")
_DASHED: Final = model.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [6, 4]})


def build(limits: Mapping[str, Limit], runbooks: str) -> str:
    """Build the dashboard's file.

    Args:
        limits: of the alerts, by name.
        runbooks: address of the folder with a page an alert.
    """
    whole = (
        dashboard.Dashboard("ml-model")
        .uid(UID)
        .description(
            "A fraud-scoring service: traffic, model, errors, latency, Kafka, scaling, system. Written by `make gen`."
        )
        .link(_link("Runbooks", "README").type(model.DashboardLinkType.LINK).icon("doc"))
        .tags(["fraudscale"])
        .time("now-1h", "now")
        .refresh("10s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .timezone("browser")
        .variables(
            [
                dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
                _namespaces(),
            ]
        )
        .annotations([_mark(annotation) for annotation in ANNOTATIONS])
    )
    numbers = count(1)
    for row in ROWS:
        whole.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            whole.with_panel(_drawn(panel, limits).id(next(numbers)))
    found = json.loads(json.dumps(whole.build(), cls=JSONEncoder))
    for mark, annotation in zip(found["annotations"]["list"], ANNOTATIONS, strict=True):
        # Grafana leaves these to the data source; its types have no name for them.
        mark |= {"titleFormat": annotation.title, "step": STEP}
    return render.rendered(json.dumps(found), limits, runbooks)


def _link(title: str, page: str) -> dashboard.DashboardLink:
    """`render` puts the folder before the page."""
    return dashboard.DashboardLink(title).url(f"{page}.md").target_blank(True)


def _drawn(panel: Panel, limits: Mapping[str, Limit]) -> stat.Panel | timeseries.Panel:
    drawn = _figure(panel) if panel.kind == "stat" else _lines(panel)
    drawn.title(panel.title).description(panel.about).unit(panel.unit).min(0).datasource(_SOURCE)
    drawn.links([_link(alert, alert) for alert in panel.alerts])
    drawn.thresholds(
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(color="green", value=None), *_line(limits.get(panel.limit or ""))])
    )
    if panel.steps and panel.unit == COUNT:
        drawn.decimals(0)
    for ref_id, query in zip("ABCDEFGH", panel.queries, strict=False):
        asked = prometheus.Dataquery().ref_id(ref_id).expr(query.expr).legend_format(query.legend)
        drawn.with_target(asked.datasource(_SOURCE).editor_mode(QueryEditorMode.CODE).range())
        if query.dashed:
            drawn.override_by_query(ref_id, [_DASHED])
    return drawn


def _line(limit: Limit | None) -> list[model.Threshold]:
    """`render` moves it to the limit of a place."""
    return [] if limit is None else [model.Threshold(limit.value, render.COLOURS[limit.severity])]


def _figure(panel: Panel) -> stat.Panel:
    return (
        stat.Panel()
        .span(3)
        .height(4)
        .text_mode(look.BigValueTextMode.NAME if panel.names else look.BigValueTextMode.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .color_mode(look.BigValueColorMode.VALUE)
        .graph_mode(look.BigValueGraphMode.AREA)
        .justify_mode(look.BigValueJustifyMode.AUTO)
        .orientation(look.VizOrientation.AUTO)
    )


def _lines(panel: Panel) -> timeseries.Panel:
    shape = look.LineInterpolation.STEP_AFTER if panel.steps else look.LineInterpolation.LINEAR
    limit = look.GraphThresholdsStyleMode.DASHED if panel.limit else look.GraphThresholdsStyleMode.OFF
    return (
        timeseries.Panel()
        .span(8)
        .height(7)
        .line_interpolation(shape)
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(limit))
        .line_width(1)
        .fill_opacity(10)
        .show_points(look.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(
            common.VizLegendOptions()
            .display_mode(look.LegendDisplayMode.LIST)
            .placement(look.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(
            common.VizTooltipOptions().mode(look.TooltipDisplayMode.MULTI).sort(look.SortOrder.DESCENDING)
        )
    )


def _namespaces() -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable("namespace")
        .label("Namespace")
        .query({"query": "label_values(ml_model_info, namespace)", "refId": "namespaces"})
        .current(model.VariableOption(True, UID, UID))
        .datasource(_SOURCE)
        # Namespaces come and go.
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )


def _mark(annotation: Annotation) -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name(annotation.name)
        .expr(annotation.expr)
        .icon_color(annotation.colour)
        .datasource(_SOURCE)
        .enable(True)
        .hide(False)
    )
