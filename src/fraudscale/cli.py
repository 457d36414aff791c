"""The program `fraudscale`: a sub-command reads its settings and calls one function."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fraudscale.config import (
    AlertSettings,
    CentralLogSettings,
    ConsoleSettings,
    HttpSettings,
    KafkaSettings,
    LocalSettings,
    LogSettings,
    MetricsSettings,
    ModelSettings,
    ReplicaSettings,
    TracingSettings,
)
from fraudscale.errors import FraudscaleError, InputError

if TYPE_CHECKING:
    from fraudscale.training.data import Progress

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A fraud-scoring platform. `make up` starts all of it on one machine.",
)

render = typer.Typer(no_args_is_help=True, help="Print a configuration file, made from the settings.")
app.add_typer(render, name="render")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


class Failed(FraudscaleError):
    """A command could not do its work."""


@app.command()
def serve() -> None:
    """Score over HTTP: the HTTP endpoint of one replica. Settings come from the environment."""
    from fraudscale import serve as endpoint

    raise typer.Exit(
        endpoint.run(
            ReplicaSettings.read(),
            HttpSettings.read(),
            ModelSettings.read(),
            LogSettings.read(),
            TracingSettings.read(),
        )
    )


@app.command()
def stream() -> None:
    """Score from Kafka: one member of the consumer group. Settings come from the environment."""
    from fraudscale.kafka import worker as consumer

    raise typer.Exit(
        consumer.run(
            ReplicaSettings.read(),
            MetricsSettings.read(),
            ModelSettings.read(),
            KafkaSettings.read(),
            LogSettings.read(),
            TracingSettings.read(),
        )
    )


@app.command()
def up(
    time_scale: Annotated[
        float | None,
        typer.Option(help="Run time faster by this factor. Default: TIME_SCALE, or 1."),
    ] = None,
) -> None:
    """Run the whole platform on this machine until Ctrl-C. `make up` first installs what is missing."""
    from fraudscale.local.up import up as run

    settings = ModelSettings.read(), KafkaSettings.read(), HttpSettings.read(), AlertSettings.read()
    # Only the components read these. Reading them here reports a wrong value before anything starts.
    for group in (ReplicaSettings, LogSettings, TracingSettings, CentralLogSettings):
        group.read()
    raise typer.Exit(run(_local(time_scale), *settings))


def _local(time_scale: float | None) -> LocalSettings:
    return LocalSettings.read(**({} if time_scale is None else {"time_scale": time_scale}))


@app.command()
def down() -> None:
    """Stop the platform, and what a crashed run left."""
    from fraudscale.local.down import down as run

    raise typer.Exit(run(LocalSettings.read().fraudscale_home, print))


@app.command()
def status(as_json: AsJson = False) -> None:
    """Tell what runs. The exit code is 0 only if all of it is ready."""
    import msgspec

    from fraudscale.local.supervisor import state

    found = state.examine(LocalSettings.read().fraudscale_home)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    elif not found.components:
        print("nothing runs here; `make up` starts the platform")
    else:
        for c in found.components:
            print(f"{c.name:16} {c.state:12} {c.address}")
        for r in found.replicas:
            print(f"{r.id:16} {r.state:12} {r.address}")
        print(f"model {found.model.version or '?'} ({found.model.alias or 'no alias'})")
        print("ready" if found.ready else "not ready")
    raise typer.Exit(0 if found.ready else 1)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Examine this machine: versions, tools, ports, memory, disk. Starts nothing."""
    from fraudscale.local.install import doctor as examination

    checks = examination.examine(LocalSettings.read(), ModelSettings.read(), KafkaSettings.read())
    print(examination.as_json(checks) if as_json else examination.as_text(checks))
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


@app.command(hidden=True)
def topics() -> None:
    """Create missing topics; `up` runs it once."""
    from fraudscale.kafka.topics import create_topics

    created = create_topics(KafkaSettings.read())
    print(f"created: {', '.join(created) or 'none, all exist'}")


@app.command(hidden=True)
def traffic(
    url: Annotated[str, typer.Option(help="Address of the entry, such as http://127.0.0.1:8000.")],
) -> None:
    """Send sample transactions over HTTP and Kafka until a signal; `up` runs it."""
    from fraudscale.local import traffic as sample

    raise typer.Exit(sample.run(url, KafkaSettings.read(), LogSettings.read()))


@app.command()
def console() -> None:
    """Serve the console, a web page that shows the platform in FRAUDSCALE_HOME, until a signal; `up` runs it."""
    from fraudscale.console import server

    raise typer.Exit(server.run(ConsoleSettings.read(), LocalSettings.read(), LogSettings.read()))


@app.command(hidden=True)
def autoscale() -> None:
    """Decide the desired replicas as the HPA of a cluster does, until a signal; `up` runs it."""
    from fraudscale.local.scaling import autoscaler

    raise typer.Exit(
        autoscaler.run(LocalSettings.read(), MetricsSettings.read(), KafkaSettings.read(), LogSettings.read())
    )


@app.command(hidden=True)
def ship_logs() -> None:
    """Ship the log lines of all components to the store until a signal; `up` runs it with LOGS=opensearch."""
    from fraudscale.central_logs import ship
    from fraudscale.local import running

    local = LocalSettings.read()
    code = ship.run(
        running.log_store(local),
        local.fraudscale_home,
        CentralLogSettings.read(),
        MetricsSettings.read(),
        LogSettings.read(),
        own=local.starts_opensearch,
    )
    raise typer.Exit(code)


@app.command()
def logs(
    trace: Annotated[str | None, typer.Option(help="Lines with this trace id.")] = None,
    transaction: Annotated[
        str | None, typer.Option(help="Lines with this transaction id, and all lines of its traces.")
    ] = None,
    event: Annotated[
        list[str] | None, typer.Option(help="Lines of this event, such as dead_lettered. May be repeated.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Lines since then: 10m, 2h, 1d, or an instant in RFC 3339 (UTC without a zone)."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="Most lines to print, the oldest first.")
    ] = 1000,
    files: Annotated[
        bool, typer.Option("--files", help="Search the files, even if a log store runs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find log lines of all components, ordered by time: in the log store if one runs (LOGS=opensearch), else in the files."""
    from fraudscale.central_logs import search
    from fraudscale.central_logs.store import StoreRefused, StoreUnavailable
    from fraudscale.local import running

    home = LocalSettings.read().fraudscale_home
    try:
        start = search.since(since, datetime.now(UTC)) if since else None
        query = search.Query(trace, transaction, tuple(event or ()), start, limit)
        store = None if files else running.open_log_store(home, CentralLogSettings.read())
        found = search.in_store(store, query) if store else search.in_files(home / "logs", query)
    except (StoreUnavailable, StoreRefused) as error:
        raise Failed(f"{error}; --files searches the files of this machine") from error
    for line in map(json.dumps, found.lines) if as_json else search.as_text(found.lines):
        print(line)
    if found.total > len(found.lines):
        print(f"and {found.total - len(found.lines)} more: --limit, --since", file=sys.stderr)
    raise typer.Exit(0 if found.lines else 1)


@app.command()
def train(
    data: Annotated[
        Path | None,
        typer.Option(
            help="CSV or Parquet with the seven fields and `is_fraud`. Without it, transactions are generated."
        ),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Number of generated transactions.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the generator and of the training.")] = 1,
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
    from fraudscale.training import run

    _bring_libgomp()
    request = run.TrainingRequest(data=data, seed=seed, rows=rows or run.ROWS, ablation=ablation)
    settings, now = ModelSettings.read(), datetime.now(UTC)
    with _progress() as progress:
        if output:
            made = run.make(output, request, now=now, progress=progress)
            result = run.TrainResult("", None, made.digest, made.manifest.metrics, made.manifest.threshold)
        elif if_missing:
            found = run.train_if_missing(settings, request, now=now, progress=progress)
            if found is None:
                print(f"{settings.mlflow_model_uri} exists; nothing to do")
                return
            result = found
        else:
            result = run.train(settings, request, now=now, progress=progress, promote=promote)
    if as_json:
        print(json.dumps(vars(result)))
        return
    place = str(output) if output else f"{settings.model_name} version {result.version}"
    print(f"{place}{f' is now {result.alias}' if result.alias else ''}; digest {result.digest[:12]}")
    print(f"threshold {result.threshold:.4f}")
    for name, value in result.metrics.items():
        print(f"{name:22} {value:.4f}")


@app.command()
def load(
    over: Annotated[Literal["http", "kafka"], typer.Option(help="The way in: HTTP or Kafka.")] = "http",
    rate: Annotated[float | None, typer.Option(help="Transactions per second (100).")] = None,
    shape: Annotated[
        Literal["constant", "ramp", "spike", "sine", "recorded"] | None,
        typer.Option(help="Course of the rate over the run (constant)."),
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Length of the run (60).")] = None,
    even: Annotated[
        bool, typer.Option("--even", help="Send at even intervals instead of a Poisson process.")
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(help="Send the transactions of this CSV or Parquet file, with its recorded gaps."),
    ] = None,
    speed: Annotated[float, typer.Option(help="Factor by which the file is replayed faster.")] = 1.0,
    url: Annotated[
        str | None, typer.Option(help="HTTP address. Default: the entry of the running platform.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Local address to send from, such as 127.0.0.2.")] = None,
    connections: Annotated[int, typer.Option(help="Most HTTP connections.")] = 512,
    timeout: Annotated[
        float, typer.Option(help="Seconds after which a request without an answer has failed.")
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

    platform = running.find(LocalSettings.read().fraudscale_home)
    test = run.LoadTest(
        over=over,
        target=HttpTarget(url or platform.entry, source, connections, timeout),
        rate=rate,
        shape=Shape(shape) if shape else None,
        seconds=seconds,
        even=even,
        replay=replay,
        speed=speed,
        picture=picture,
        saved=save,
    )
    raise typer.Exit(run.run(test, platform.kafka, platform.prometheus, as_json=as_json))


@app.command()
def replay(
    reason: Annotated[
        Literal["validation", "prediction"] | None, typer.Option(help="Only dead letters with this reason.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only those dead-lettered then or later, RFC 3339 (UTC without a zone)."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Only those dead-lettered before, RFC 3339 (UTC without a zone).")
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", help="Only those with this key, a transaction id. May be repeated."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most dead letters to send.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Most records per second.")] = None,
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

    settings = KafkaSettings.read()
    result = dead_letters.Result(settings.dead_letter_topic, dry_run)
    try:
        choice = dead_letters.Choice(
            reason,
            dead_letters.parse_time("--since", since),
            dead_letters.parse_time("--until", until),
            frozenset(ids or ()),
            again,
            limit,
        )
        with _progress() as progress:
            dead_letters.run(
                settings,
                choice,
                from_start=from_start,
                rate=rate,
                progress=lambda share: progress("dead letters", share),
                result=result,
            )
    except (BrokerUnavailable, NotDelivered, dead_letters.PositionFull) as error:
        raise Failed(f"{error}; {result.sent} went back before that") from error
    print(dead_letters.as_json(result) if as_json else dead_letters.as_text(result))
    raise typer.Exit(1 if result.left["too_large"] else 0)


@app.command()
def rehearse(
    hpa: Annotated[list[Path], typer.Option(help="HPA manifest. May be repeated, to compare several.")],
    trace: Annotated[Path | None, typer.Option(help="Load trace: JSON, or CSV with a header.")] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Drawn load in milli-cores, such as week:600-2600 or spike:1000-2200:30m."),
    ] = None,
    from_prometheus: Annotated[
        str | None, typer.Option(help="Load that the Prometheus at this address recorded.")
    ] = None,
    window: Annotated[str, typer.Option(help="How far back to ask Prometheus.")] = "24h",
    cpu_request_m: Annotated[float | None, typer.Option(help="CPU request of a pod, milli-cores.")] = None,
    memory_request_mi: Annotated[float | None, typer.Option(help="Memory request of a pod, MiB.")] = None,
    memory_mi: Annotated[
        float | None,
        typer.Option(
            min=0, help="Memory that a pod uses, MiB, if the load doesn't say. Default: half of its request."
        ),
    ] = None,
    initial_replicas: Annotated[
        int | None, typer.Option(help="Replicas at the start. Default: minReplicas.")
    ] = None,
    pod_ready_after_s: Annotated[
        float | None, typer.Option(help="Seconds from the creation of a pod until it is ready. Default: 1.")
    ] = None,
    metrics_delay_s: Annotated[
        float | None, typer.Option(help="Age of the newest sample, seconds. Default: 0.")
    ] = None,
    sync_period_s: Annotated[
        float | None, typer.Option(help="Seconds between two syncs of the controller. Default: 15.")
    ] = None,
    cpu_ms_per_request: Annotated[
        float | None,
        typer.Option(min=0.001, help="CPU time of one request, for the latency estimate. Default: 1."),
    ] = None,
    pod_cpu_m: Annotated[
        float | None,
        typer.Option(
            min=1, help="CPU that a pod can use at most, milli-cores. Default: a core, or its request."
        ),
    ] = None,
    suggest: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Search the behaviour with the fewest pod-hours and a p95 under this many ms."
        ),
    ] = None,
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
    )
    with _progress() as progress:
        result = run.run(request, time.time(), progress)
    print(result.as_json() if as_json else result.as_text())
    raise typer.Exit(0 if result.suggestion is None or result.suggestion.holds else 1)


@app.command()
def demo_scaling(
    time_scale: Annotated[
        float | None,
        typer.Option(help="Run the autoscaler's time faster by this factor. Default: TIME_SCALE, or 1."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=1, help="Records per second that drive the platform up (4,000).")
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
    raise typer.Exit(demo.run(_local(time_scale), rate or demo.RATE, picture, as_json=as_json))


@app.command()
def fetch_model(
    version: Annotated[str | None, typer.Option(help="Fetch this version instead of the alias's.")] = None,
) -> None:
    """Fetch the registry's model into MODEL_CACHE_DIR, verify it, and print its folder."""
    from fraudscale.registry import fetch as fetching

    print(fetching.fetch_model(ModelSettings.read(), version))


@render.command()
def rules(
    time_scale: Annotated[
        float | None,
        typer.Option(help="Divide windows and waiting times by this factor. Default: TIME_SCALE, or 1."),
    ] = None,
) -> None:
    """Print the alert rules as `up` loads them, with their links (RUNBOOK_URL, DASHBOARD_URL) and windows."""
    from fraudscale.alerting import rules as alert_rules
    from fraudscale.local.install.ports import HOST, Ports

    local = _local(time_scale)
    console = f"http://{HOST}:{Ports.at(local.fraudscale_port_base).console}"
    print(alert_rules.render(AlertSettings.read(), console, local.time_scale), end="")


@render.command()
def alertmanager(
    time_scale: Annotated[
        float | None, typer.Option(help="Divide waits and repeats by this factor. Default: TIME_SCALE, or 1.")
    ] = None,
) -> None:
    """Print Alertmanager's configuration (ALERT_WEBHOOK_URL, SMTP_SERVER, ALERT_EMAIL). It contains the secrets."""
    from fraudscale.alerting import alertmanager as configuration

    print(configuration.render(AlertSettings.read(), _local(time_scale).time_scale), end="")


@render.command()
def dashboard() -> None:
    """Print Grafana's dashboard, with its links (RUNBOOK_URL) and the limits of the alert rules (ALERT_RULES)."""
    from fraudscale.alerting import rules as alert_rules
    from fraudscale.dashboard import limits
    from fraudscale.dashboard import render as committed

    settings = AlertSettings.read()
    runbooks = settings.runbook_url or alert_rules.RUNBOOKS
    print(committed.render(limits.read(alert_rules.read(settings)), runbooks), end="")


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
        tasks: dict[str, TaskID] = {}

        def progress(step: str, share: float) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=1.0)
                if not console.is_terminal:
                    console.print(f"{step} …")
            bars.update(tasks[step], completed=share)

        yield progress


def main() -> None:
    """Run the program: exit code 2 for the user's input, 1 for the rest."""
    try:
        app()
    except FraudscaleError as error:
        print(f"fraudscale: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written: the message names the file
        print(f"fraudscale: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
