"""The commands that do one task and end: train, load, replay, rehearse, demo-scaling; and what all commands share."""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from fraudscale import files
from fraudscale.config import KafkaSettings, LocalSettings, ModelSettings
from fraudscale.errors import FraudscaleError, InputError
from fraudscale.stopping import interrupts

if TYPE_CHECKING:
    from fraudscale.training.data import Progress

tasks = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


LARGEST: Final = 2**31 - 1
"""Of a whole number: each library that gets one takes it."""


def number(text: str, at_least: float = 0, at_most: float | None = None) -> Any:
    """Declare an option for a finite number within bounds."""
    return typer.Option(help=text, min=at_least, max=at_most, callback=_is_number)


def file_to_read(text: str) -> Any:
    """Declare an option for a file that is read."""
    return typer.Option(help=text, exists=True, dir_okay=False)


def http_address(text: str) -> Any:
    """Declare an option for an address that transactions are sent to."""
    return typer.Option(help=text, callback=_is_http)


def _is_number(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):  # nan is within any bounds
        raise typer.BadParameter(f"{value}: must be a finite number")
    return value


def _is_http(url: str | None) -> str | None:
    from fraudscale.load.run import is_plain_http

    if url is not None and not is_plain_http(url):
        raise typer.BadParameter(f"{url}: must be http://HOST[:PORT], such as http://127.0.0.1:8000")
    return url


class Failed(FraudscaleError):
    """A command could not do its work."""


def local_settings(time_scale: float | None) -> LocalSettings:
    """Read them, with another TIME_SCALE where an option gives one."""
    return LocalSettings.read(**({} if time_scale is None else {"time_scale": time_scale}))


@tasks.command()
def train(
    data: Annotated[
        Path | None,
        file_to_read(
            "CSV or Parquet with the seven fields and `is_fraud`. Without it, transactions are generated."
        ),
    ] = None,
    rows: Annotated[int | None, number("Number of generated transactions.", 1, 20_000_000)] = None,
    seed: Annotated[int, number("Seed of the generator and of the training.", 0, LARGEST)] = 1,
    ablation: Annotated[
        bool, typer.Option(help="Also train without each group of features, to measure its worth.")
    ] = False,
    promote: Annotated[bool, typer.Option(help="Let the alias point to the new version at once.")] = False,
    if_missing: Annotated[
        bool, typer.Option(help="Do nothing if the alias already points to a version.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the model to this folder, without a registry.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model and register it. It becomes the champion if there is none yet, or with --promote."""
    from fraudscale.local import running
    from fraudscale.training import run

    settings = ModelSettings.read() if output else running.find(LocalSettings.read()).model
    _bring_libgomp()
    request = run.TrainingRequest(data=data, seed=seed, rows=rows or run.ROWS, ablation=ablation)
    now = datetime.now(UTC)
    with interrupts(), _progress() as progress:
        if output:
            made = run.make(output, request, now=now, progress=progress)
            figures = made.manifest.metrics, made.manifest.threshold
            result = run.TrainResult("", None, made.digest, *figures, made.warnings)
        elif if_missing:
            found = run.train_if_missing(settings, request, now=now, progress=progress)
            if found is None:
                print(f"{settings.mlflow_model_uri} exists; nothing to do")
                return
            result = found
        else:
            result = run.train(settings, request, now=now, progress=progress, promote=promote)
    _warn(result.warnings)
    if as_json:
        print(json.dumps(vars(result)))
        return
    place = str(output) if output else f"{settings.model_name} version {result.version}"
    print(f"{place}{f' is now {result.alias}' if result.alias else ''}; digest {result.digest[:12]}")
    print(f"threshold {result.threshold:.4f}")
    for name, value in result.metrics.items():
        print(f"{name:22} {value:.4f}")


@tasks.command()
def load(
    over: Annotated[Literal["http", "kafka"], typer.Option(help="The way in: HTTP or Kafka.")] = "http",
    rate: Annotated[float | None, number("Transactions per second (100).", 0.001, 1_000_000)] = None,
    shape: Annotated[
        Literal["constant", "ramp", "spike", "sine", "recorded"] | None,
        typer.Option(help="Course of the rate over the run (constant)."),
    ] = None,
    seconds: Annotated[float | None, number("Length of the run, seconds (60).", 0.001, 30 * 86400)] = None,
    even: Annotated[
        bool, typer.Option("--even", help="Send at even intervals instead of a Poisson process.")
    ] = False,
    replay: Annotated[
        Path | None,
        file_to_read("Send the transactions of this CSV or Parquet file, with its recorded gaps."),
    ] = None,
    speed: Annotated[float, number("Factor by which the file is replayed faster.", 0.001, 1_000_000)] = 1.0,
    url: Annotated[
        str | None, http_address("HTTP address. Default: the entry of the running platform.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Local address to send from, such as 127.0.0.2.")] = None,
    connections: Annotated[int, number("Most HTTP connections.", 1, 100_000)] = 512,
    timeout: Annotated[
        float, number("Seconds after which a request without an answer has failed.", 0.001, 86400)
    ] = 10.0,
    picture: Annotated[Path | None, typer.Option(help="Draw the run to this .png or .svg file.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the report as JSON to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send transactions at a rate fixed in advance, and report how long they took to be scored."""
    if find_spec("hdrh") is None:
        raise Failed("the load test needs the group `train`: run it in a checkout after `make up`")
    from fraudscale.load import run
    from fraudscale.load.arrivals import Shape
    from fraudscale.load.over_http import HttpTarget
    from fraudscale.local import running

    platform = running.find(LocalSettings.read())
    at = url or (platform.entry if over == "http" else "")
    kafka = platform.kafka if over == "kafka" else KafkaSettings.read()
    test = run.LoadTest(
        over=over,
        target=HttpTarget(at, source, connections, timeout),
        rate=rate,
        shape=Shape(shape) if shape else None,
        seconds=seconds,
        even=even,
        replay=replay,
        speed=speed,
        picture=picture,
        saved=save,
    )
    raise typer.Exit(run.run(test, kafka, platform.prometheus, as_json=as_json))


Reason = Literal["validation", "prediction", "delivery"]
"""Of a dead letter that may go back."""


@tasks.command()
def replay(
    reason: Annotated[Reason | None, typer.Option(help="Only dead letters with this reason.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Only those dead-lettered then or later: 10m, 2h, 1d, or an instant in RFC 3339 (UTC without a zone)."
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Only those dead-lettered before; written as --since.")
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", help="Only those with this key, a transaction id. May be repeated."),
    ] = None,
    limit: Annotated[int | None, number("Most dead letters to send.", 1, LARGEST)] = None,
    rate: Annotated[float | None, number("Most records per second.", 0.001)] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also those that were sent back before and failed again.")
    ] = False,
    from_start: Annotated[
        bool,
        typer.Option("--from-start", help="Also those that were sent back before, whatever became of them."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent; send nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to the topic that they came from."""
    from fraudscale.kafka import replay as dead_letters
    from fraudscale.kafka.client import BrokerUnavailable, NotDelivered
    from fraudscale.local import running

    settings = running.find(LocalSettings.read()).kafka
    result = dead_letters.ReplayResult(settings.dead_letter_topic, dry_run)
    try:
        choice = dead_letters.ReplayFilter(
            reason,
            dead_letters.parse_time("--since", since),
            dead_letters.parse_time("--until", until),
            frozenset(ids or ()),
            again,
            limit,
        )
        with interrupts(), _progress() as progress:
            dead_letters.run(
                settings,
                choice,
                from_start=from_start,
                rate=rate,
                progress=lambda share: progress("dead letters", share),
                result=result,
            )
    except (BrokerUnavailable, NotDelivered, dead_letters.PositionFull) as error:
        raise Failed(f"{error}; {result.sent} dead letters were sent back before that") from error
    print(dead_letters.as_json(result) if as_json else dead_letters.as_text(result))
    raise typer.Exit(1 if result.left["too_large"] or result.left["refused"] else 0)


# Options of a rehearsal: what it has to know of the cluster and of requests.
CpuRequest = Annotated[float | None, number("CPU request of a pod, milli-cores.", 0.001)]
MemoryRequest = Annotated[float | None, number("Memory request of a pod, MiB.", 0.001)]
PodMemory = Annotated[
    float | None,
    number("Memory that a pod uses, MiB, if the load doesn't say. Default: half of its request."),
]
InitialReplicas = Annotated[int | None, number("Replicas at the start. Default: minReplicas.", 0, 100_000)]
PodReadyAfter = Annotated[
    float | None, number("Seconds from the creation of a pod until it is ready. Default: 1.")
]
MetricsDelay = Annotated[float | None, number("Age of the newest sample, seconds. Default: 0.")]
SyncPeriod = Annotated[float | None, number("Seconds between two syncs of the controller. Default: 15.", 0.1)]
RequestCost = Annotated[
    float | None, number("CPU time of one request, for the latency estimate. Default: 1.", 0.001)
]
PodCpu = Annotated[
    float | None,
    number("CPU that a pod can use at most, milli-cores. Default: a core, or its request.", 1),
]
SuggestLimit = Annotated[
    float | None,
    number("Search the behaviour with the fewest pod-hours and a p95 under this many ms.", 0.001),
]


StrictMetrics = Annotated[
    bool,
    typer.Option("--strict", help="Refuse metrics other than CPU and memory, instead of leaving them out."),
]


@tasks.command()
def rehearse(
    hpa: Annotated[list[Path], file_to_read("HPA manifest. May be repeated, to compare several.")],
    trace: Annotated[Path | None, file_to_read("Load trace: JSON, or CSV with a header.")] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Drawn load in milli-cores, such as week:600-2600 or spike:1000-2200:30m."),
    ] = None,
    from_prometheus: Annotated[
        str | None, typer.Option(help="Load that the Prometheus at this address recorded.")
    ] = None,
    window: Annotated[str, typer.Option(help="How far back to ask Prometheus.")] = "24h",
    cpu_request_m: CpuRequest = None,
    memory_request_mi: MemoryRequest = None,
    memory_mi: PodMemory = None,
    initial_replicas: InitialReplicas = None,
    pod_ready_after_s: PodReadyAfter = None,
    metrics_delay_s: MetricsDelay = None,
    sync_period_s: SyncPeriod = None,
    cpu_ms_per_request: RequestCost = None,
    pod_cpu_m: PodCpu = None,
    suggest: SuggestLimit = None,
    strict: StrictMetrics = False,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the rehearsal to this .svg, .png or .pdf file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what an HPA would do with a load, sync by sync, and how long users would wait. Needs no cluster."""
    import time

    from fraudscale.rehearsal import run
    from fraudscale.rehearsal.trace import Setup

    setup = Setup(
        cpu_request_m=cpu_request_m,
        memory_request_mi=memory_request_mi,
        sync_period_s=sync_period_s,
        initial_replicas=initial_replicas,
        pod_ready_after_s=pod_ready_after_s,
        metrics_delay_s=metrics_delay_s,
    )
    request = run.RehearsalRequest(
        hpas=hpa,
        trace=trace,
        shape=shape,
        prometheus=from_prometheus,
        window=window,
        setup=setup,
        memory_mi=memory_mi,
        cpu_ms_per_request=cpu_ms_per_request,
        pod_cpu_m=pod_cpu_m,
        picture=picture,
        suggest_ms=suggest,
        strict=strict,
    )
    with _progress() as progress:
        result = run.run(request, time.time(), progress)
    _warn(result.warnings)
    print(result.as_json() if as_json else result.as_text())
    raise typer.Exit(0 if result.suggestion is None or result.suggestion.holds else 1)


@tasks.command()
def demo_scaling(
    time_scale: Annotated[
        float | None,
        number("Run the autoscaler's time faster by this factor. Default: TIME_SCALE, or 1.", 1, 20),
    ] = None,
    rate: Annotated[
        float | None, number("Records per second that drive the platform up (4,000).", 1, 1_000_000)
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw to this .png, .svg or .pdf file. Default: run/demo-scaling.png.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start the platform, drive it to its maximum of replicas and back, and compare with a rehearsal of the same CPU."""
    if find_spec("hdrh") is None:
        raise Failed("the demonstration needs the group `train`: run it in a checkout after `make up`")
    from fraudscale.local.demo import scaling as demo
    from fraudscale.rehearsal.run import PICTURES

    if picture is not None and picture.suffix.lower() not in PICTURES:
        raise InputError(f"--picture {picture}: the name must end in {', '.join(PICTURES)}")
    if picture is not None and (reason := files.unwritable(picture)):
        raise InputError(f"--picture {picture}: can't be written: {reason}")
    raise typer.Exit(demo.run(local_settings(time_scale), rate or demo.RATE, picture, as_json=as_json))


def _warn(lines: Iterable[str]) -> None:
    """Tell what the result doesn't hold, beside it."""
    for line in lines:
        print(f"fraudscale: {line}", file=sys.stderr)


def _bring_libgomp() -> None:
    """LightGBM needs it; `up` has brought it, but `train` also runs by itself."""
    from fraudscale.local.install.download import load_libgomp

    load_libgomp(LocalSettings.read(), lambda line: print(line, file=sys.stderr))


@contextmanager
def _progress() -> "Iterator[Progress]":
    """Show steps as bars on a terminal, as lines elsewhere."""
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    console = Console(stderr=True)
    with Bars(console=console, disable=not console.is_terminal) as bars:
        shown: dict[str, TaskID] = {}

        def progress(step: str, share: float) -> None:
            if step not in shown:
                shown[step] = bars.add_task(step, total=1.0)
                if not console.is_terminal:
                    console.print(f"{step} …")
            bars.update(shown[step], completed=share)

        yield progress
