"""What the terminal shows: which lines of the logs, how often, and in which words."""

import io
import json
from types import SimpleNamespace

from rich.console import Console

from fraudscale.local import terminal as console_log
from fraudscale.local.supervisor.component import Component
from fraudscale.local.supervisor.supervise import ManagedComponent, State, SupervisorEvent
from fraudscale.local.terminal import Filter, Starting, Tail, Terminal, marked_lines, readable

PREDICTION = b'{"event":"prediction_made","level":"info","transaction_id":"tx-1","fraud_probability":0.5}\n'


def terminal(*, interactive=False):
    return Terminal(Console(file=io.StringIO(), force_terminal=interactive, width=200, soft_wrap=True))


def shown(terminal):
    return terminal.console.file.getvalue()


def test_of_our_own_logs_only_warnings_errors_and_a_few_events_are_shown():
    block = (
        PREDICTION
        + b'{"event":"a","level":"warning"}\n{"event":"b","level":"info"}\n'
        + b'{"event":"model_loaded","level":"info"}\n{"event":"c","level":"error"}\n'
    )
    assert [json.loads(line)["event"] for line in marked_lines(block)] == ["a", "model_loaded", "c"]


def test_of_the_logs_of_others_lines_that_look_like_trouble_are_shown():
    block = b"2026 INFO fine\n2026 WARN low\n2026 ERROR bad\nlevel=error msg=x\n"
    assert marked_lines(block) == [b"2026 WARN low", b"2026 ERROR bad", b"level=error msg=x"]


def test_a_line_with_two_marks_is_shown_once():
    assert len(marked_lines(b'{"level":"error","message":" ERROR"}\n')) == 1


def test_a_prediction_whose_id_looks_like_a_mark_is_not_shown():
    assert marked_lines(PREDICTION.replace(b"tx-1", b" ERROR")) == []


def test_the_tail_begins_at_the_end_and_waits_for_whole_lines(tmp_path):
    log = tmp_path / "kafka.log"
    log.write_bytes(b"old ERROR\n")
    tail = Tail(tmp_path)
    with log.open("ab", buffering=0) as writer:
        writer.write(b"new ERR")
        assert list(tail.lines()) == []
        writer.write(b"OR 1 ERROR\n")
        assert list(tail.lines()) == [("kafka", b"new ERROR 1 ERROR")]
    assert list(tail.lines()) == []


def test_the_tail_goes_on_with_a_log_that_was_cut_and_one_that_is_new(tmp_path):
    (tmp_path / "kafka.log").write_bytes(b"x" * 100 + b"\n")
    tail = Tail(tmp_path)
    (tmp_path / "kafka.log").write_bytes(b"an ERROR\n")
    (tmp_path / "mlflow.log").write_bytes(b"an ERROR\n")
    assert [component for component, _ in tail.lines()] == ["kafka", "mlflow"]


def test_the_tail_skips_to_the_end_of_a_log_that_grows_too_fast_and_keeps_a_sample(tmp_path):
    tail = Tail(tmp_path)
    (tmp_path / "serve.log").write_bytes(b"an ERROR\n" + PREDICTION * 20_000)
    assert list(tail.lines()) == []
    assert tail.sample["transaction_id"] == "tx-1"


def test_the_supervisors_own_log_is_not_shown_twice(tmp_path):
    tail = Tail(tmp_path)
    (tmp_path / console_log.EVENTS_LOG).write_bytes(b'{"level":"error"}\n')
    assert list(tail.lines()) == []


def test_an_event_of_ours_is_shown_by_name_and_fields():
    line = b'{"process":"serve","event":"model_load_failed","level":"warning","timestamp":"t","reason":"r"}'
    assert readable(line) == ("model_load_failed  reason=r", "yellow")


def test_a_line_that_differs_in_numbers_only_is_shown_again_after_a_while():
    lines = Filter()
    assert lines.passes("a", b"took 5 ms at 12:00:01", 0)
    assert not lines.passes("a", b"took 6 ms at 12:00:02", 1)
    assert lines.passes("b", b"took 6 ms at 12:00:02", 1)
    assert lines.passes("a", b"took 7 ms at 12:09:02", console_log.REPEAT_SECONDS + 1)


def test_too_many_lines_of_one_part_are_only_counted():
    lines = Filter()
    passed = [lines.passes("a", word.encode(), 0) for word in "klmnopq"]
    assert passed.count(True) == console_log.LINES_PER_COMPONENT
    assert lines.held_back() == {"a": 2}
    assert lines.passes("a", b"r", 0)


def test_an_id_cannot_command_the_terminal():
    out = terminal()
    out.stamped("scored", "tx-\x1b[2J\n1 [red]")
    assert "tx-?[2J?1 [red]" in shown(out)


def test_a_terminal_that_was_closed_is_no_error():
    def broken(*_, **__):
        raise BrokenPipeError

    out = Terminal(SimpleNamespace(print=broken))
    out.say("a")
    out.say("b")


def test_without_a_terminal_there_is_no_colour_and_a_line_a_part():
    out = terminal()
    with Starting(out, list) as starting:
        starting.tell(SupervisorEvent("part_ready", "kafka", details={"seconds": 2.1}))
        starting.tell(SupervisorEvent("part_started", "mlflow"))
    out.say("bad", "red")
    assert shown(out) == "kafka ready (2.1 s)\nbad\n"


def test_on_a_terminal_there_is_a_table_of_parts():
    out = terminal(interactive=True)
    managed = ManagedComponent(Component("kafka", ("run",), address="127.0.0.1:9092"), state=State.STARTING)
    with Starting(out, lambda: [managed]):
        pass
    assert "kafka" in shown(out)
    assert "starting" in shown(out)


def test_the_line_of_figures_has_a_dash_for_what_is_not_known():
    line = console_log.figures_line({"http": 20.04, "p95": 0.0021}, (3, 4))
    assert "20.0/s over HTTP, –/s from Kafka" in line
    assert "p95 2.1 ms, queue –, 3/4 replicas" in line


def test_a_prometheus_that_is_down_gives_no_figures():
    assert console_log.prometheus_figures("http://127.0.0.1:9")() == {}
