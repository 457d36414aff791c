"""What a person gets wrong is told in one line with the name and the value, and exit code 2: each option, each setting."""

import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import pytest
import typer
from pydantic import SecretStr
from typer.testing import CliRunner

from fraudscale import cli
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
    TracingSettings,
)

ROOT = Path(__file__).parents[2]
OUTSIDE = ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-14:00"]
LONG = "9" * 400
BY_TYPE = {
    bool: ["perhaps"],
    int: ["x", "1.5", "-1", "nan", LONG],
    float: ["x", "-1", "nan", "inf", "-inf", LONG],
    Literal: ["x"],
}
BY_OPTION = {
    "--since": ["x", *OUTSIDE],
    "--until": ["x", *OUTSIDE],
    "--window": ["x", "0s", f"{LONG}y", "99999y"],
    "--shape": [
        "x",
        "week:2-1",
        "week:1-2:x",
        "week:1-2:0s",
        "week:1-2:99999y",
        f"week:{LONG}",
        "week:1.1.1",
    ],
    "--from-prometheus": ["x", "ftp://x", "http://", "http://x:99999"],
    "--source": ["x"],
    "--url": ["x", "https://x", "http://", "http://x:99999"],
}
ANY_TEXT = {"--trace", "--transaction", "--event", "--id", "--version"}
REQUIRED = {"rehearse": ["--hpa", "argocd/manifests/hpa.yaml"], "traffic": ["--url", "http://127.0.0.1:1"]}
BESIDE = {
    "--picture": ["--shape=constant:1", "--cpu-request-m=1", "--memory-request-mi=1"],
    "--shape": ["--cpu-request-m=1", "--memory-request-mi=1"],
    "--window": ["--from-prometheus=http://127.0.0.1:1", "--cpu-request-m=1", "--memory-request-mi=1"],
}
"""What an option needs so that its own value is what is wrong."""
READS = {
    "serve": [ReplicaSettings, HttpSettings, ModelSettings, LogSettings, TracingSettings],
    "stream": [
        ReplicaSettings,
        MetricsSettings,
        ModelSettings,
        KafkaSettings,
        LogSettings,
        TracingSettings,
    ],
    "up": [group for group in SETTINGS if group not in {MetricsSettings, ConsoleSettings}],
    "down": [LocalSettings],
    "status": [LocalSettings],
    "doctor": [LocalSettings, ModelSettings, KafkaSettings],
    "topics": [LocalSettings, KafkaSettings],
    "traffic": [LocalSettings, KafkaSettings, LogSettings],
    "console": [ConsoleSettings, LocalSettings, LogSettings],
    "autoscale": [LocalSettings, MetricsSettings, KafkaSettings, LogSettings],
    "ship-logs": [LocalSettings, CentralLogSettings, MetricsSettings, LogSettings],
    "logs": [LocalSettings, CentralLogSettings],
    "fetch-model": [LocalSettings, ModelSettings],
    "train": [LocalSettings, ModelSettings],
    "load": [LocalSettings, KafkaSettings],
    "replay": [LocalSettings, KafkaSettings],
    "rehearse": [],
    "demo-scaling": [LocalSettings],
    "render rules": [AlertSettings, LocalSettings],
    "render alertmanager": [AlertSettings, LocalSettings],
    "render dashboard": [AlertSettings],
}


def walk(command, path=()):
    """Each command without sub-commands, by its words."""
    below = getattr(command, "commands", None)
    if below is None:
        yield " ".join(path), command
    else:
        for name, one in below.items():
            yield from walk(one, (*path, name))


COMMANDS = dict(walk(typer.main.get_command(cli.app)))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A platform's folder with nothing in it; a command that looks for one takes the table of ports."""
    monkeypatch.setenv("FRAUDSCALE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FRAUDSCALE_PORT_BASE", "21000")
    monkeypatch.chdir(ROOT)
    return tmp_path / "home"


@pytest.fixture
def said(monkeypatch, capsys):
    """Run a command; return its exit code and the one line of its error."""

    def run(command, *arguments):
        monkeypatch.setattr(sys, "argv", ["fraudscale", *command.split(), *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("fraudscale: ")
        assert err.index("\n") == len(err) - 1, err
        return ended.value.code, err

    return run


def kind(annotation):
    """The type behind `int | None`, `list[Path]` and `Annotated`."""
    origin = get_origin(annotation)
    if origin is Literal:
        return Literal
    if origin in {Union, UnionType, list, Annotated}:
        return next(kind(one) for one in get_args(annotation) if one is not type(None))
    return annotation


def options():
    for name, command in COMMANDS.items():
        for option in command.params:
            annotation = kind(option.type_descriptor.annotation)
            if annotation is not bool and "--help" not in option.opts:
                yield pytest.param(name, option.opts[0], annotation, id=f"{name} {option.opts[0]}")


@pytest.mark.parametrize(("command", "option", "annotation"), [*options()])
def test_an_option_with_a_wrong_value_is_named_with_it(said, command, option, annotation):
    if annotation is str:
        assert (option in BY_OPTION) != (option in ANY_TEXT)
        values = BY_OPTION.get(option, [])
    else:
        values = ["/dev/null/x.svg"] if annotation is Path else BY_TYPE[annotation]
    for value in values:
        beside = BESIDE.get(option, []) if command == "rehearse" else []
        code, line = said(command, *REQUIRED.get(command, []), *beside, f"{option}={value}")
        assert code == 2, line
        assert option in line
        assert value in line or value == LONG


def test_a_command_that_is_none_and_an_option_that_is_none_are_named(said):
    for words in (["statsu"], ["status", "--jsno"], ["rehearse"], ["render", "rule"]):
        code, line = said(*words)
        assert code == 2
        assert "--help`" in line
        assert (words[-1] in line) or words == ["rehearse"]


def test_an_argument_that_is_no_text_is_refused(said):
    assert said("logs", "--trace=\udcff") == (2, "fraudscale: '--trace=\\udcff': must be UTF-8 text\n")


def wrong_values(field):
    """What the setting can't be."""
    annotation = kind(field.annotation)
    if annotation is Path:
        return ["/dev/null/x", "a\nb", "\udcff"]
    return [*BY_TYPE.get(annotation, ["\udcff"])]


def test_each_command_says_which_settings_it_reads():
    assert READS.keys() == COMMANDS.keys()
    assert {group for groups in READS.values() for group in groups} == set(SETTINGS)


@pytest.mark.parametrize("command", READS)
def test_a_setting_with_a_wrong_value_is_named_with_it(said, monkeypatch, command):
    for group in READS[command]:
        first = next(one for one, groups in READS.items() if group in groups) == command
        for name, field in group.model_fields.items():
            if name.startswith("otel_"):
                continue  # OpenTelemetry's: a wrong value is ignored, with a warning
            # All values with the first command that reads the group, and one each with the others.
            for value in wrong_values(field)[: None if first else 1]:
                with monkeypatch.context() as patch:
                    patch.setenv(name.upper(), value)
                    code, line = said(command, *REQUIRED.get(command, []))
                assert code == 2, line
                shown = "…" if "SecretStr" in str(field.annotation) else repr(value)
                assert f"{name.upper()}={shown}: " in line


def test_a_secret_is_never_shown(said, monkeypatch):
    secrets = [
        name.upper()
        for group in READS["up"]
        for name, field in group.model_fields.items()
        if kind(field.annotation) is SecretStr and not name.startswith("otel_")
    ]
    assert len(secrets) >= 5
    for name in secrets:
        with monkeypatch.context() as patch:
            patch.setenv(name, "hidden\udcff")
            assert "hidden" not in said("up")[1]


RULES = b"groups: [{name: a, rules: [{alert: A, expr: up == 0}]}]"
BROKEN_RULES = [None, b"\xff", b"a: [", b"[]", b"groups: {}", b"groups: [{name: a, rules: [{alert: A}]}]"]


@pytest.mark.parametrize("content", BROKEN_RULES)
@pytest.mark.parametrize("command", ["up", "render rules", "render dashboard"])
def test_a_file_of_rules_that_is_none_is_named(said, monkeypatch, tmp_path, command, content):
    file = tmp_path / "rules.yaml"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("ALERT_RULES", str(file))
    code, line = said(command)
    assert code == 2
    assert f"ALERT_RULES='{file}': " in line
    assert "name a file of Prometheus's rules" in line


def test_rules_of_somebody_else_are_drawn_and_made_faster_as_far_as_they_are_understood(
    monkeypatch, tmp_path
):
    """Without labels; with a range and a waiting time that only Prometheus understands."""
    file = tmp_path / "rules.yaml"
    rule = "{alert: B, for: 0, expr: 'rate(x{a=~\"[abc]\"}[5m]) > 1', labels: {severity: page}}"
    file.write_bytes(RULES.replace(b"}]}]", b"}, %s]}]" % rule.encode()))
    monkeypatch.setenv("ALERT_RULES", str(file))
    run = lambda *words: CliRunner().invoke(cli.app, words)  # noqa: E731
    assert "[abc]" in run("render", "rules", "--time-scale", "10").output
    assert "[30s]" in run("render", "rules", "--time-scale", "10").output
    assert run("render", "dashboard").exit_code == 0


@pytest.mark.parametrize("name", ["HPA_MANIFEST", "DEPLOYMENT_MANIFEST"])
@pytest.mark.parametrize("command", ["up", "demo-scaling"])
def test_a_manifest_that_is_not_there_is_named(said, monkeypatch, command, name):
    monkeypatch.setenv(name, "none.yaml")
    code, line = said(command)
    assert (code, line) == (
        2,
        f"fraudscale: {name}='none.yaml': can't be read: No such file or directory; name another file\n",
    )


@pytest.mark.parametrize("command", ["up", "down"])
def test_a_folder_in_the_place_of_the_lock_is_named_with_its_setting(said, home, command):
    lock = home / "run" / "lock"
    lock.mkdir(parents=True)
    code, line = said(command)
    assert code == 2
    assert line.startswith(f"fraudscale: FRAUDSCALE_HOME='{home}': {lock}: Is a directory; ")


@pytest.mark.parametrize("command", ["up", "down", "status", "logs", "doctor"])
def test_a_home_folder_that_is_a_file_is_named(said, home, command):
    home.write_text("")
    assert said(command) == (2, f"fraudscale: FRAUDSCALE_HOME='{home}': is a file; name a folder\n")


@pytest.mark.parametrize("name", ["FRAUDSCALE_HOME", "MODEL_CACHE_DIR"])
def test_a_folder_of_a_user_whom_nobody_knows_is_named(said, monkeypatch, name):
    monkeypatch.setenv(name, "~nobody-of-this-name/x")
    code, line = said("up")
    assert (code, line.startswith(f"fraudscale: {name}='~nobody-of-this-name/x': nobody knows")) == (2, True)


def test_a_home_folder_in_a_circle_of_links_is_named(said, home):
    home.symlink_to(home)
    code, line = said("status")
    assert (code, line.startswith(f"fraudscale: FRAUDSCALE_HOME='{home}': nothing can be there")) == (2, True)


def test_a_place_that_nobody_chose_is_named_and_not_the_user_s_fault(said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FRAUDSCALE_HOME")
    Path(".fraudscale/run/lock").mkdir(parents=True)
    code, line = said("up")
    assert code == 1
    assert "FRAUDSCALE_HOME='.fraudscale': " in line


@pytest.mark.parametrize("damage", [b"KAFKA_TOPIC=\xff\n", None])
def test_a_file_of_settings_that_cannot_be_read_is_named(said, monkeypatch, tmp_path, damage):
    file = tmp_path / ".env.local"
    file.write_bytes(damage or b"")
    monkeypatch.chdir(tmp_path)
    if damage is None:
        if os.geteuid() == 0:
            pytest.skip("root may read anything")
        file.chmod(0)
    code, line = said("status")
    assert code == 2
    assert ".env.local: " in line


def test_a_user_without_a_folder_is_told_what_to_set(said, monkeypatch):
    def nobody(_):
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("FRAUDSCALE_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    code, line = said("doctor")
    assert code == 2
    assert "FRAUDSCALE_CACHE='~/.cache/fraudscale': " in line
    assert "set HOME" in line


def test_a_shell_without_a_home_folder_is_told_what_to_set():
    done = subprocess.run(
        ["/bin/sh", ROOT / "scripts/bootstrap.sh"],
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "HOME is not set: set it, or FRAUDSCALE_CACHE to a folder of yours\n"


def test_a_broker_that_is_not_there_is_one_line_without_the_client_s_own():
    done = subprocess.run(
        [sys.executable, "-m", "fraudscale", "replay"],
        env=os.environ | {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("fraudscale: 127.0.0.1:1, topic ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("reached", ["pydantic_core", "fraudscale.config"])
def test_ctrl_c_before_the_program_has_begun_ends_it_without_a_word(reached):
    """Python tells each module that it has imported: the signal comes while it imports the next."""
    command = [sys.executable, "-X", "importtime", "-m", "fraudscale", "status"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        for line in child.stderr:
            if line.rpartition("|")[2].strip() == reached:
                break
        child.send_signal(signal.SIGINT)
        said = [line for line in child.stderr if not line.startswith("import time:")]
    assert (child.returncode, said) == (-signal.SIGINT, [])


@pytest.fixture
def registry():
    """One that knows no model."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}'
            self.send_response(404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_first_training_that_is_stopped_leaves_no_folder(registry, tmp_path, which):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = {"MLFLOW_TRACKING_URI": registry, "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "fraudscale", "train", "--if-missing"]
    with subprocess.Popen(command, env=os.environ | env, stderr=subprocess.PIPE, text=True) as child:
        while child.poll() is None and not list(temporary.glob("fraudscale-train-*")):
            time.sleep(0.01)
        child.send_signal(which)
        said = child.stderr.read().removeprefix("generate …\n")
    assert (child.returncode, said) == (130, "")
    assert list(temporary.glob("fraudscale-*")) == []
