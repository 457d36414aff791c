"""A load trace: read from JSON or CSV, checked, and refused with file, path and reason."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from fraudscale.csv_text import CsvError, hint, read_csv
from fraudscale.errors import InputError

MAX_TICKS: Final = 1_000_000
"""More than five months at 15 s: beyond it a unit was mistaken, most likely milliseconds for seconds."""
SYNC_PERIOD_S: Final = 15.0
"""Of the controller, unless its flags say otherwise."""

Amount = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]


class TraceError(InputError):
    """A trace that can't be rehearsed: the file, the path inside it, and the reason."""

    def __init__(self, file: str, path: str, reason: str) -> None:
        super().__init__(": ".join(part for part in (file, path, reason) if part))
        self.file = file
        self.path = path
        self.reason = reason


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The load from the `until_s` of the segment before (0 for the first) up to its own."""

    until_s: Positive
    total_cpu_m: Amount
    """Milli-cores of all pods together."""
    memory_mi: Amount
    """MiB of each pod."""
    metrics_share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Part of the pods that report metrics, the oldest first."""


class LoadTrace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A load, and what of the cluster the HPA's answer depends on."""

    load: Annotated[tuple[Segment, ...], Meta(min_length=1)]
    cpu_request_m: Positive
    """Milli-cores that a pod requests, all its containers together."""
    memory_request_mi: Positive
    sync_period_s: Positive = SYNC_PERIOD_S
    initial_replicas: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    """None: the HPA's minReplicas."""
    pod_ready_after_s: Amount = 1
    """From a pod's creation to its readiness."""
    metrics_delay_s: Amount = 0
    """Age of the newest sample when the controller reads it."""
    duration_s: Positive | None = None
    """None: up to the end of the load."""

    @property
    def seconds(self) -> float:
        return self.duration_s or self.load[-1].until_s


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a CSV or a measurement doesn't say, and what is to be other than a trace says; fields as in `LoadTrace`."""

    cpu_request_m: float | None = None
    memory_request_mi: float | None = None
    sync_period_s: float | None = None
    initial_replicas: int | None = None
    pod_ready_after_s: float | None = None
    metrics_delay_s: float | None = None

    @property
    def period(self) -> float:
        return SYNC_PERIOD_S if self.sync_period_s is None else self.sync_period_s


class Cost(msgspec.Struct, frozen=True):
    """What turns a load of requests into one of CPU and memory."""

    cpu_ms_per_request: float | None = None
    """One request per second that costs 1 ms uses 1m."""
    memory_mi: float = 0.0
    """Of a pod, where the load doesn't tell."""


def read(path: Path, setup: Setup, cost: Cost) -> LoadTrace:
    """Read a trace: CSV by its name's ending, JSON otherwise.

    Args:
        path: JSON of `LoadTrace`; or CSV with a header, `t_s,total_cpu_m,memory_mi` or `t_s,rps` with or without `memory_mi`,
            both with or without `metrics_share`. A row holds until the next one's `t_s`, the last for as long as the one
            before it; the first `t_s` becomes 0.
        setup: what a CSV doesn't say, or what is to be other than JSON says.
        cost: of a request, for a CSV of requests.

    Raises:
        TraceError: it can't be read, has a wrong shape, or contradicts itself.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TraceError(str(path), "", f"can't be read: {error.strerror or error}") from error
    if path.suffix.lower() == ".csv":
        return of_load(str(path), _read_csv(str(path), content, cost), setup)
    trace = decode(str(path), content)
    return decode(str(path), _encode(trace.load, msgspec.structs.asdict(trace) | _given(setup)))


def decode(file: str, content: bytes) -> LoadTrace:
    """Read a trace from JSON; `file` names it in errors.

    Raises:
        TraceError: as `read`.
    """
    try:
        trace = msgspec.json.decode(content.decode().removeprefix("\ufeff"), type=LoadTrace)
    except UnicodeDecodeError as error:
        raise TraceError(file, "", f"not UTF-8: {error.reason} at byte {error.start}") from error
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        raise TraceError(file, place.rstrip("`").lstrip(".") or "the whole file", reason) from error
    except msgspec.DecodeError as error:
        raise TraceError(file, "", f"not JSON: {error}") from error
    return _checked(file, trace)


def of_load(file: str, load: Sequence[Segment], setup: Setup) -> LoadTrace:
    """Put a load and what is known of the cluster together; `file` names the load in errors.

    Raises:
        TraceError: a request is not given, or as `read`.
    """
    for name in ("cpu_request_m", "memory_request_mi"):
        if getattr(setup, name) is None:
            option = name.replace("_", "-")
            raise TraceError(file, name, f"the trace doesn't say what a pod requests; give --{option}")
    return decode(file, _encode(load, _given(setup)))


def _given(setup: Setup) -> dict[str, float]:
    return {name: value for name, value in msgspec.structs.asdict(setup).items() if value is not None}


def _encode(load: Sequence[Segment], fields: Mapping[str, object]) -> bytes:
    # Through the decoder: bounds are said in one place, and hold for options as for files.
    return msgspec.json.encode({**fields, "load": load})


def _checked(file: str, trace: LoadTrace) -> LoadTrace:
    end = 0.0
    for i, segment in enumerate(trace.load):
        if segment.until_s <= end:
            raise TraceError(
                file,
                f"load[{i}].until_s",
                f"{segment.until_s:g} is not after the {end:g} of the segment before",
            )
        end = segment.until_s
    if trace.seconds > end:
        raise TraceError(file, "duration_s", f"{trace.seconds:g} is beyond the end of the load at {end:g}")
    if trace.seconds / trace.sync_period_s > MAX_TICKS:
        raise TraceError(
            file,
            "sync_period_s",
            f"{trace.seconds:g} s at {trace.sync_period_s:g} s a tick are more than {MAX_TICKS} ticks; are both in seconds?",
        )
    return trace


def _read_csv(file: str, content: bytes, cost: Cost) -> list[Segment]:
    try:
        header, rows = read_csv(content)
        _check_header(file, header, cost)
        columns: dict[str, list[float]] = {name: [] for name in header}
        for line, row in rows:
            _add(columns, row, f"line {line}", file)
    except CsvError as error:
        raise TraceError(file, error.place, error.reason) from error
    return _segments(file, columns, cost)


def _check_header(file: str, header: list[str], cost: Cost) -> None:
    known = {"t_s", "total_cpu_m", "rps", "memory_mi", "metrics_share"}
    if unknown := [name for name in header if name not in known]:
        raise TraceError(
            file, "line 1", f"unknown column {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )
    if len(set(header)) < len(header):
        raise TraceError(file, "line 1", "a column is there twice")
    if "t_s" not in header:
        raise TraceError(file, "line 1", "the column t_s is missing")
    if ("total_cpu_m" in header) == ("rps" in header):
        raise TraceError(file, "line 1", "exactly one of the columns total_cpu_m and rps is needed")
    if "rps" in header and cost.cpu_ms_per_request is None:
        raise TraceError(
            file, "rps", "requests per second need what one costs to become CPU; give --cpu-ms-per-request"
        )


def _add(columns: dict[str, list[float]], row: list[str], place: str, file: str) -> None:
    for (name, values), text in zip(columns.items(), row, strict=True):
        try:
            value = float(text)
        except ValueError as error:
            raise TraceError(file, f"{place}, {name}", f"{text!r:.60} is not a number{hint(text)}") from error
        if not math.isfinite(value) or (value < 0 and name != "t_s"):
            raise TraceError(
                file, f"{place}, {name}", f"{text.strip():.60} is not a finite number of at least 0"
            )
        if name == "t_s" and values and value <= values[-1]:
            raise TraceError(
                file, f"{place}, t_s", f"{value:g} is not after the {values[-1]:g} of the row before"
            )
        values.append(value)


def _segments(file: str, columns: dict[str, list[float]], cost: Cost) -> list[Segment]:
    times = columns["t_s"]
    if len(times) < 2:
        raise TraceError(file, "", f"{len(times)} rows; at least two are needed to know how long one lasts")
    ends = [*times[1:], 2 * times[-1] - times[-2]]
    rates = columns.get("rps")
    cpu = columns["total_cpu_m"] if rates is None else [r * (cost.cpu_ms_per_request or 0) for r in rates]
    memory = columns.get("memory_mi") or [cost.memory_mi] * len(times)
    shares = columns.get("metrics_share") or [1.0] * len(times)
    return [Segment(end - times[0], *values) for end, *values in zip(ends, cpu, memory, shares, strict=True)]
