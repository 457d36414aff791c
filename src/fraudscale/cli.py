"""The program `fraudscale`: a sub-command reads its settings and calls one function."""

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer
from pydantic import ValidationError

from fraudscale.cli_tasks import AsJson, Failed, http_address, local_settings, number, tasks
from fraudscale.config import (
    SETTINGS,
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
    SettingsError,
    TracingSettings,
)
from fraudscale.config_values import is_utf8
from fraudscale.doubts import doubts
from fraudscale.errors import FraudscaleError, InputError
from fraudscale.stopping import interrupts

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A fraud-scoring platform. `make up` starts all of it on one machine.",
)

MISPLACED: Final = frozenset(
    {errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS}
)
"""What the system answers where the place is wrong, and not the disk full or broken."""

LOGGING: Final = frozenset({"serve", "stream", "console", "autoscale", "traffic", "ship-logs"})
"""Commands that say in their log what is doubtful."""

render = typer.Typer(help="Print a configuration file, made from the settings.")
app.add_typer(render, name="render")
app.add_typer(tasks)


@app.callback()
def begin(context: typer.Context) -> None:
    """Say what is probably meant otherwise."""
    if context.invoked_subcommand not in LOGGING:
        for doubt in doubts():
            print(f"fraudscale: warning: {doubt}", file=sys.stderr)


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
        float | None, number("Run time faster by this factor. Default: TIME_SCALE, or 1.", 1, 20)
    ] = None,
) -> None:
    """Run the whole platform on this machine until Ctrl-C. `make up` first installs what is missing."""
    from fraudscale.local.up import up as run

    settings = ModelSettings.read(), KafkaSettings.read(), HttpSettings.read(), AlertSettings.read()
    # Only the components read these. Reading them here reports a wrong value before anything starts.
    for group in (ReplicaSettings, LogSettings, TracingSettings, CentralLogSettings):
        group.read()
    raise typer.Exit(run(local_settings(time_scale), *settings))


@app.command()
def down() -> None:
    """Stop the platform, and what a crashed run left."""
    from fraudscale.local.down import down as run

    raise typer.Exit(run(LocalSettings.read().fraudscale_home, print))


@app.command()
def status(as_json: AsJson = False) -> None:
    """Tell what runs. The exit code is 0 only if all of it is ready."""
    import msgspec

    from fraudscale.local import running

    found = running.examine(LocalSettings.read().fraudscale_home)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        print(running.as_text(found))
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
    from fraudscale.local import running

    created = create_topics(running.find(LocalSettings.read()).kafka)
    print(f"created: {', '.join(created) or 'none, all exist'}")


@app.command(hidden=True)
def traffic(
    url: Annotated[str, http_address("Address of the entry, such as http://127.0.0.1:8000.")],
) -> None:
    """Send sample transactions over HTTP and Kafka until a signal; `up` runs it."""
    from fraudscale.local import running
    from fraudscale.local import traffic as sample

    raise typer.Exit(sample.run(url, running.find(LocalSettings.read()).kafka, LogSettings.read()))


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
    """Ship the log lines of all components to the store until a signal; `up` runs it with FRAUDSCALE_LOGS=opensearch."""
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
    """Find log lines of all components, ordered by time: in the log store if one runs (FRAUDSCALE_LOGS=opensearch), else in the files."""
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
def fetch_model(
    version: Annotated[str | None, typer.Option(help="Fetch this version instead of the alias's.")] = None,
) -> None:
    """Fetch the registry's model into MODEL_CACHE_DIR, verify it, and print its folder."""
    from fraudscale.local import running
    from fraudscale.registry import fetch as fetching

    with interrupts():
        print(fetching.fetch_model(running.find(LocalSettings.read()).model, version))


@render.command()
def rules(
    time_scale: Annotated[
        float | None,
        number("Divide windows and waiting times by this factor. Default: TIME_SCALE, or 1.", 1, 20),
    ] = None,
) -> None:
    """Print the alert rules as `up` loads them, with their links (RUNBOOK_URL, DASHBOARD_URL) and windows."""
    from fraudscale.alerting import rules as alert_rules
    from fraudscale.local.install.ports import HOST, Ports

    local = local_settings(time_scale)
    console = f"http://{HOST}:{Ports.of(local).console}"
    print(alert_rules.render(AlertSettings.read(), console, local.time_scale), end="")


@render.command()
def alertmanager(
    time_scale: Annotated[
        float | None, number("Divide waits and repeats by this factor. Default: TIME_SCALE, or 1.", 1, 20)
    ] = None,
) -> None:
    """Print Alertmanager's configuration (ALERT_WEBHOOK_URL, SMTP_SERVER, ALERT_EMAIL). It contains the secrets."""
    from fraudscale.alerting import alertmanager as configuration

    print(configuration.render(AlertSettings.read(), local_settings(time_scale).time_scale), end="")


@render.command()
def dashboard() -> None:
    """Print Grafana's dashboard, with its links (RUNBOOK_URL) and the limits of the alert rules (ALERT_RULES)."""
    from fraudscale.alerting import rules as alert_rules
    from fraudscale.dashboard import limits
    from fraudscale.dashboard import render as committed

    settings = AlertSettings.read()
    runbooks = settings.runbook_url or alert_rules.RUNBOOKS
    print(committed.render(limits.read(alert_rules.read(settings)), runbooks), end="")


def main() -> None:
    """Run the program: exit code 2 for the user's input, 1 for the rest, 130 after Ctrl-C."""
    with errors_in_one_line():
        for argument in sys.argv:
            if not is_utf8(argument):
                raise InputError(f"{argument!r}: must be UTF-8 text")
        sys.exit(app(args=sys.argv[1:] or ["--help"], prog_name="fraudscale", standalone_mode=False))


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the program with one line and an exit code where a person can mend what is wrong; else the trace is wanted."""
    try:
        yield
    except typer.TyperException as error:
        message, code = _of_usage(error), error.exit_code
    except FraudscaleError as error:
        message, code = str(error), error.exit_code
    except OSError as error:
        message, code = _of_system(error)
    else:
        return
    print(f"fraudscale: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _of_usage(error: typer.TyperException) -> str:
    """Say what is wrong on the command line: the option, its value, what it may be."""
    message = error.format_message()
    if isinstance(error, typer.BadParameter) and error.param and isinstance(error.__cause__, ValidationError):
        value = error.__cause__.errors()[0]["input"]
        message = f"{error.param.opts[0]} {value}: {error.message.removeprefix('Value error, ')}"
    context = getattr(error, "ctx", None)
    return f"{message.rstrip('.')}; see `{context.command_path if context else 'fraudscale'} --help`"


def _of_system(error: OSError) -> tuple[str, int]:
    """Say which file can't be used and, where it lies in a place that a setting names, which setting; and the exit code."""
    # A descriptor has a number and no place.
    file = os.path.realpath(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else ""
    named = [place for place in _places() if file and Path(file).is_relative_to(place.real)]
    if not named:
        return str(error), 1
    place = max(named, key=lambda one: len(one.real))
    wrong = error.errno in MISPLACED
    remedy = "; set it to a place that this user may use" if wrong else ""
    said = f"{place.name}={place.value!r}: {file}: {error.strerror}{remedy}"
    return said, InputError.exit_code if wrong and place.given else 1


class _Place(NamedTuple):
    """A setting that names a file or folder."""

    name: str
    value: str
    real: str
    given: bool
    """By somebody; else it is the default."""


def _places() -> Iterator[_Place]:
    for group in SETTINGS:
        with suppress(SettingsError):  # of a group that this command did not need
            settings = group.read()
            for name, value in settings:
                if isinstance(value, Path):
                    given = name in settings.model_fields_set
                    yield _Place(name.upper(), str(value), os.path.realpath(value), given)


if __name__ == "__main__":
    main()
