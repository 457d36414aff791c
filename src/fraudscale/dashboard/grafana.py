"""Grafana's JSON of the table of panels: its classic schema, as far as we use it, as types."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct, field

from fraudscale.dashboard.limits import Limit
from fraudscale.dashboard.panels import (
    ANNOTATIONS,
    COUNT,
    ROWS,
    STEP,
    Annotation,
    Panel,
    Row,
)

SCHEMA: Final = 39
"""Of Grafana 11; later ones migrate it when they read it."""
UID: Final = "ml-model"
GRID: Final = 24
"""Columns of Grafana's grid."""
_SIZES: Final = {"stat": (3, 4), "timeseries": (8, 7)}
"""Width and height of a panel, in the grid's units."""
_COLOURS: Final = {"critical": "red", "warning": "orange", "info": "blue"}
_NEVER_NEGATIVE: Final = 0


class DataSource(Struct, frozen=True):
    uid: str = "${datasource}"
    type: str = "prometheus"


class Position(Struct, frozen=True):
    x: int
    y: int
    w: int
    h: int


class Target(Struct, frozen=True, rename="camel"):
    ref_id: str
    expr: str
    legend_format: str
    datasource: DataSource = DataSource()
    editor_mode: str = "code"
    range: bool = True


class Link(Struct, frozen=True, rename="camel"):
    title: str
    url: str
    target_blank: bool = True


class Threshold(Struct, frozen=True):
    color: str
    value: float | None
    """From here on; null: from below everything."""


class Thresholds(Struct, frozen=True):
    steps: list[Threshold]
    mode: str = "absolute"


class Style(Struct, frozen=True):
    mode: str


class Custom(Struct, frozen=True, rename="camel"):
    """How lines are drawn."""

    line_interpolation: str
    thresholds_style: Style
    line_width: int = 1
    fill_opacity: int = 10
    show_points: str = "never"
    span_nulls: bool = False


class Defaults(Struct, frozen=True, omit_defaults=True):
    unit: str
    thresholds: Thresholds
    min: int | None = None
    decimals: int | None = None
    custom: Custom | None = None


class Matcher(Struct, frozen=True):
    options: str
    id: str = "byFrameRefID"


class Dashes(Struct, frozen=True):
    fill: str = "dash"
    dash: tuple[int, int] = (6, 4)


class Property(Struct, frozen=True):
    id: str = "custom.lineStyle"
    value: Dashes = Dashes()


class Override(Struct, frozen=True):
    """How the series of one query differ."""

    matcher: Matcher
    properties: tuple[Property, ...] = (Property(),)


class FieldConfig(Struct, frozen=True):
    defaults: Defaults
    overrides: list[Override]


class Legend(Struct, frozen=True, rename="camel"):
    display_mode: str = "list"
    placement: str = "bottom"
    show_legend: bool = True
    calcs: list[str] = []


class Tooltip(Struct, frozen=True):
    mode: str = "multi"
    sort: str = "desc"


class Lines(Struct, frozen=True):
    """Options of a time series."""

    legend: Legend = Legend()
    tooltip: Tooltip = Tooltip()


class Reduce(Struct, frozen=True):
    calcs: list[str] = field(default_factory=lambda: ["lastNotNull"])
    fields: str = ""
    values: bool = False


class Figure(Struct, frozen=True, rename="camel"):
    """Options of a stat."""

    text_mode: str
    reduce_options: Reduce = field(default_factory=Reduce)
    color_mode: str = "value"
    graph_mode: str = "area"
    justify_mode: str = "auto"
    orientation: str = "auto"


class Drawn(Struct, frozen=True, rename="camel"):
    """A panel of the grid."""

    id: int
    type: Literal["timeseries", "stat"]
    title: str
    description: str
    grid_pos: Position
    targets: list[Target]
    field_config: FieldConfig
    options: Lines | Figure
    links: list[Link]
    datasource: DataSource = DataSource()


class Heading(Struct, frozen=True, rename="camel"):
    """A row: what follows belongs to it."""

    id: int
    title: str
    grid_pos: Position
    collapsed: bool = False
    panels: list[object] = []
    type: str = "row"


class Mark(Struct, frozen=True, rename="camel"):
    """An annotation query."""

    name: str
    expr: str
    title_format: str
    icon_color: str
    step: str = STEP
    datasource: DataSource = DataSource()
    enable: bool = True
    hide: bool = False


class Choice(Struct, frozen=True):
    text: str
    value: str
    selected: bool = True


class LabelValues(Struct, frozen=True, rename="camel"):
    query: str
    ref_id: str = "namespaces"


class DataSourceVariable(Struct, frozen=True):
    name: str = "datasource"
    label: str = "Data source"
    type: str = "datasource"
    query: str = "prometheus"
    refresh: int = 1
    hide: int = 0
    regex: str = ""


class QueryVariable(Struct, frozen=True, rename="camel"):
    name: str
    label: str
    query: LabelValues
    current: Choice
    datasource: DataSource = DataSource()
    type: str = "query"
    refresh: int = 2
    """When the time range changes: namespaces come and go."""
    sort: int = 1
    multi: bool = False
    include_all: bool = False
    hide: int = 0
    regex: str = ""


class Templating(Struct, frozen=True):
    list: tuple[DataSourceVariable | QueryVariable, ...]


class Annotations(Struct, frozen=True):
    list: tuple[Mark, ...]


class Span(Struct, frozen=True, rename={"start": "from", "end": "to"}):
    start: str = "now-1h"
    end: str = "now"


class DashboardLink(Struct, frozen=True, rename="camel"):
    title: str
    url: str
    type: str = "link"
    icon: str = "doc"
    tooltip: str = ""
    target_blank: bool = True
    tags: list[str] = []
    as_dropdown: bool = False
    include_vars: bool = False
    keep_time: bool = False


class Dashboard(Struct, frozen=True, rename="camel"):
    """The whole file."""

    title: str
    description: str
    links: list[DashboardLink]
    panels: list[Heading | Drawn]
    templating: Templating
    annotations: Annotations
    uid: str = UID
    tags: tuple[str, ...] = ("fraudscale",)
    schema_version: int = SCHEMA
    time: Span = Span()
    refresh: str = "10s"
    graph_tooltip: int = 1
    """The cross hair is on all panels at once."""
    timezone: str = "browser"
    editable: bool = True


def render(limits: Mapping[str, Limit], runbooks: str, rows: Sequence[Row] = ROWS) -> str:
    """Render the dashboard.

    Args:
        limits: of the alerts, by name.
        runbooks: address of the folder with a page an alert.
        rows: what is on it.
    """
    dashboard = Dashboard(
        title="ml-model",
        description="A fraud-scoring service: traffic, model, errors, latency, Kafka, scaling, system. Written by `make gen`.",
        links=[DashboardLink("Runbooks", f"{runbooks}/README.md")],
        panels=list(_placed(rows, limits, runbooks)),
        templating=Templating((DataSourceVariable(), _namespaces())),
        annotations=Annotations(tuple(map(_mark, ANNOTATIONS))),
    )
    return msgspec.json.format(msgspec.json.encode(dashboard), indent=2).decode() + "\n"


def _placed(rows: Sequence[Row], limits: Mapping[str, Limit], runbooks: str) -> Iterator[Heading | Drawn]:
    """Number the panels and put them side by side, as many as fit, each row below its heading."""
    number, y = 1, 0
    for row in rows:
        yield Heading(number, row.title, Position(0, y, GRID, 1))
        number, x, y, height = number + 1, 0, y + 1, 0
        for panel in row.panels:
            width, height = _SIZES[panel.kind]
            if x + width > GRID:
                x, y = 0, y + height
            yield _drawn(number, panel, Position(x, y, width, height), limits, runbooks)
            number, x = number + 1, x + width
        y += height


def _drawn(number: int, panel: Panel, place: Position, limits: Mapping[str, Limit], runbooks: str) -> Drawn:
    limit = limits[panel.limit] if panel.limit else None
    return Drawn(
        id=number,
        type=panel.kind,
        title=panel.title,
        description=panel.about,
        grid_pos=place,
        targets=[Target(_ref_id(i), query.expr, query.legend) for i, query in enumerate(panel.queries)],
        field_config=FieldConfig(
            _defaults(panel, limit),
            [Override(Matcher(_ref_id(i))) for i, query in enumerate(panel.queries) if query.dashed],
        ),
        options=Lines() if panel.kind == "timeseries" else Figure("name" if panel.names else "auto"),
        links=[Link(alert, f"{runbooks}/{alert}.md") for alert in panel.alerts],
    )


def _ref_id(index: int) -> str:
    return chr(ord("A") + index)


def _defaults(panel: Panel, limit: Limit | None) -> Defaults:
    steps = [Threshold("green", None)]
    if limit:
        steps.append(Threshold(_COLOURS[limit.severity], limit.value))
    lines = Custom(
        line_interpolation="stepAfter" if panel.steps else "linear",
        thresholds_style=Style("dashed" if limit else "off"),
    )
    return Defaults(
        unit=panel.unit,
        thresholds=Thresholds(steps),
        min=_NEVER_NEGATIVE,
        decimals=0 if panel.steps and panel.unit == COUNT else None,
        custom=lines if panel.kind == "timeseries" else None,
    )


def _namespaces() -> QueryVariable:
    return QueryVariable(
        "namespace",
        "Namespace",
        LabelValues("label_values(ml_model_info, namespace)"),
        Choice("ml-model", "ml-model"),
    )


def _mark(annotation: Annotation) -> Mark:
    return Mark(annotation.name, annotation.expr, annotation.title, annotation.colour)
