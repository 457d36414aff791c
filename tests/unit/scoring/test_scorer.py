import dataclasses
import json
import time
from datetime import datetime
from types import SimpleNamespace

import pytest
import structlog
from msgspec import structs
from prometheus_client import CollectorRegistry

from fraudscale.config import LogSettings
from fraudscale.metrics import ModelMetrics
from fraudscale.scoring import model
from fraudscale.scoring.lineup import NoModel
from fraudscale.scoring.prediction_log import PredictionLog
from fraudscale.scoring.records import Transaction
from fraudscale.scoring.scorer import PredictionFailed, Scorer
from fraudscale.telemetry.tracing import BatchTrace, Context, Trace

UNSAMPLED = Trace(Context("a" * 32, "b" * 16, sampled=False))
NIGHT = Transaction("a", 5000.0, "crypto", 3, 6, 20, 10.0)
DAY = Transaction("b", 5.0, "grocery", 15, 2, 50, 9000.0)


def load(make_artifact, folder, version="1", **kwargs):
    make_artifact(folder, **kwargs)
    files = {name: (folder / name).read_bytes() for name in model.SERVED_FILES}
    return model.build((folder / model.MANIFEST).read_bytes(), files, version=version, alias="champion")


@pytest.fixture
def metrics():
    return ModelMetrics()


@pytest.fixture
def scorer(metrics):
    return Scorer(metrics, PredictionLog(LogSettings(log_predictions_sample=0), "test"), "replica-1")


@pytest.fixture
def value(metrics):
    registry = CollectorRegistry()
    registry.register(metrics)
    return lambda name, **labels: registry.get_sample_value(name, labels)


def score(scorer, *transactions):
    return scorer.score(transactions, [time.perf_counter()] * len(transactions)).predictions()


def test_without_a_model_nothing_is_scored_and_it_is_counted(scorer, value):
    with pytest.raises(NoModel):
        score(scorer, NIGHT, DAY)
    assert value("ml_model_failed_predictions_total") == 2


def test_a_prediction_has_the_promised_fields(scorer, make_artifact, tmp_path):
    scorer.install(load(make_artifact, tmp_path, threshold=0.3))
    night, day = score(scorer, NIGHT, DAY)
    assert (night.transaction_id, night.model_version, night.replica_id) == ("a", "1", "replica-1")
    assert night.is_fraud is (night.fraud_probability >= 0.3)
    assert day.confidence == pytest.approx(1 - day.fraud_probability)
    assert datetime.fromisoformat(night.prediction_time).utcoffset().total_seconds() == 0
    assert night.processing_time_ms > 0


def test_the_threshold_itself_is_fraud(scorer, make_artifact, tmp_path):
    loaded = load(make_artifact, tmp_path)
    exact = loaded.probabilities([NIGHT])[0]
    scorer.install(dataclasses.replace(loaded, manifest=_with_threshold(loaded.manifest, exact)))
    assert score(scorer, NIGHT)[0].is_fraud


def _with_threshold(manifest, threshold):
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    return model.Manifest(**(fields | {"threshold": threshold}))


def test_every_prediction_is_counted_once(scorer, make_artifact, tmp_path, value):
    scorer.install(load(make_artifact, tmp_path, bias=50.0))
    score(scorer, NIGHT, DAY, DAY)
    assert value("ml_model_predictions_total", version="1", result="fraud") == 3
    assert value("ml_model_predictions_total", version="1", result="legitimate") == 0
    assert value("ml_model_prediction_duration_count") == 3
    assert value("ml_model_fraud_probability_count") == 3
    assert value("ml_model_confidence_score_bucket", le="1.0") == 3


def test_unknown_categories_are_counted(scorer, make_artifact, tmp_path, value):
    scorer.install(load(make_artifact, tmp_path))
    score(scorer, DAY, Transaction("c", 1.0, "yachts", 1, 1, 30, 1.0))
    assert value("ml_model_unknown_categories_total") == 1


def test_a_swap_changes_version_and_answers_and_leaves_one_info_series(
    scorer, make_artifact, tmp_path, value
):
    scorer.install(load(make_artifact, tmp_path / "1", "1"))
    before = score(scorer, DAY)[0]
    scorer.install(load(make_artifact, tmp_path / "2", "2", bias=50.0))
    after = score(scorer, DAY)[0]
    assert (before.model_version, after.model_version) == ("1", "2")
    assert before.fraud_probability < after.fraud_probability
    assert value("ml_model_info", version="1", alias="champion") is None
    assert value("ml_model_info", version="2", alias="champion") == 1


def test_a_model_that_raises_is_counted_and_reported(scorer, make_artifact, tmp_path, value):
    def fail(_rows):
        raise RuntimeError("engine broke")

    scorer.install(dataclasses.replace(load(make_artifact, tmp_path), _engine=fail))
    with pytest.raises(PredictionFailed, match="engine broke"):
        score(scorer, NIGHT, DAY)
    assert value("ml_model_errors_total", error_type="prediction") == 1
    assert value("ml_model_failed_predictions_total") == 2
    with pytest.raises(PredictionFailed):
        scorer.score([NIGHT, DAY], [time.perf_counter()] * 2, final=False)
    assert value("ml_model_failed_predictions_total") == 2, "what is tried again has not failed yet"
    assert value("ml_model_errors_total", error_type="prediction") == 1


def test_a_model_that_answers_too_little_has_failed(scorer, make_artifact, tmp_path):
    loaded = load(make_artifact, tmp_path)
    scorer.install(dataclasses.replace(loaded, _engine=lambda rows: loaded._engine(rows)[:1]))
    with pytest.raises(PredictionFailed, match="1 probabilities for 2 transactions"):
        score(scorer, NIGHT, DAY)


def test_a_full_disk_under_the_log_does_not_stop_the_scoring(make_artifact, tmp_path, metrics, monkeypatch):
    scorer = Scorer(metrics, PredictionLog(LogSettings(log_format="json"), "serve"), "replica-1")
    scorer.install(load(make_artifact, tmp_path))
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
        monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=full))
        assert [p.transaction_id for p in score(scorer, NIGHT, DAY)] == ["a", "b"]


def test_each_prediction_is_one_line_of_json(make_artifact, tmp_path, metrics, capfdbinary):
    scorer = Scorer(metrics, PredictionLog(LogSettings(log_format="json"), "serve"), "replica-1")
    scorer.install(load(make_artifact, tmp_path))
    predictions = score(scorer, NIGHT, DAY)
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["prediction_made"] * 2
    assert [line["fraud_probability"] for line in lines] == [p.fraud_probability for p in predictions]
    assert lines[0].keys() >= {
        "transaction_id",
        "processing_time_ms",
        "model_version",
        "replica_id",
        "timestamp",
    }


def test_a_line_names_the_trace_of_its_transaction(make_artifact, tmp_path, metrics, capfdbinary):
    scorer = Scorer(metrics, PredictionLog(LogSettings(log_format="json"), "serve"), "replica-1")
    scorer.install(load(make_artifact, tmp_path))
    scorer.score([DAY, NIGHT, DAY], [time.perf_counter()] * 3, trace=BatchTrace({1: UNSAMPLED}))
    plain, traced, _ = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert (traced["transaction_id"], traced["trace_id"], traced["span_id"]) == ("a", "a" * 32, "b" * 16)
    assert traced.keys() - plain.keys() == {"trace_id", "span_id"}


def test_in_a_sample_of_lines_each_keeps_its_own_trace(make_artifact, tmp_path, metrics, capfdbinary):
    settings = LogSettings(log_format="json", log_predictions_sample=0.5)
    scorer = Scorer(metrics, PredictionLog(settings, "serve"), "replica-1")
    scorer.install(load(make_artifact, tmp_path))
    ids = [f"{i:032x}" for i in range(1, 201)]
    traces = {i: Trace(Context(ids[i], "b" * 16, sampled=False)) for i in range(0, 200, 2)}
    transactions = [structs.replace(DAY, transaction_id=trace_id) for trace_id in ids]
    scorer.score(transactions, [time.perf_counter()] * 200, trace=BatchTrace(traces))
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert 50 < len(lines) < 150
    for line in lines:
        traced = ids.index(line["transaction_id"]) % 2 == 0
        assert line.get("trace_id") == (line["transaction_id"] if traced else None)


def test_a_line_for_a_terminal_names_its_trace_too(make_artifact, tmp_path, metrics):
    scorer = Scorer(metrics, PredictionLog(LogSettings(log_format="console"), "serve"), "replica-1")
    scorer.install(load(make_artifact, tmp_path))
    with structlog.testing.capture_logs() as lines:
        scorer.score([DAY, NIGHT], [time.perf_counter()] * 2, trace=BatchTrace({1: UNSAMPLED}))
    assert [line.get("trace_id") for line in lines] == [None, "a" * 32]


def test_only_a_sampled_trace_is_the_example_of_a_pass(make_artifact, tmp_path, metrics, scorer):
    scorer.install(load(make_artifact, tmp_path))
    seconds = metrics.duration.labels()
    scorer.score([DAY, NIGHT], [time.perf_counter()] * 2, trace=BatchTrace({0: UNSAMPLED}))
    assert not seconds.exemplars
    sampled = Trace(Context("c" * 32, "d" * 16, sampled=True), sampled=True)
    scorer.score([DAY, NIGHT], [time.perf_counter()] * 2, trace=BatchTrace({0: UNSAMPLED, 1: sampled}))
    (exemplar,) = seconds.exemplars.values()
    begin, end = scorer.last_pass
    assert exemplar.labels == sampled.ids()
    assert exemplar.value == end - begin


def test_a_sample_of_predictions_is_logged(make_artifact, tmp_path, metrics, capfdbinary):
    scorer = Scorer(
        metrics, PredictionLog(LogSettings(log_format="json", log_predictions_sample=0.1), "serve"), "r"
    )
    scorer.install(load(make_artifact, tmp_path))
    score(scorer, *[DAY] * 1000)
    assert 30 < len(capfdbinary.readouterr().out.splitlines()) < 250


def test_frauds_and_the_others_are_counted_apart(scorer, make_artifact, tmp_path, value):
    loaded = load(make_artifact, tmp_path)
    threshold = sum(loaded.probabilities([NIGHT, DAY])) / 2
    scorer.install(dataclasses.replace(loaded, manifest=_with_threshold(loaded.manifest, threshold)))
    score(scorer, NIGHT, DAY, DAY)
    score(scorer, DAY, DAY)
    assert value("ml_model_predictions_total", version="1", result="fraud") == 1
    assert value("ml_model_predictions_total", version="1", result="legitimate") == 4


def test_the_processing_time_begins_with_each_call_of_its_own(scorer, make_artifact, tmp_path):
    scorer.install(load(make_artifact, tmp_path))
    now = time.perf_counter()
    early, late = scorer.score([NIGHT, DAY], [now - 2.0, now]).predictions()
    assert early.processing_time_ms - late.processing_time_ms == pytest.approx(2000)
    assert 0 < late.processing_time_ms < 1000
