"""`make up LOGS=opensearch`: one transaction's lines are found, whoever wrote them."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.platform(FRAUDSCALE_LOGS="opensearch")]


def found(platform, *options):
    done = platform.fraudscale("logs", "--json", *options)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_lines_of_one_transaction_are_found_in_the_store_as_in_the_files(platform):
    body = {
        "transaction_id": "tx-central",
        "amount": 949.9,
        "merchant_category": "electronics",
        "hour": 3,
        "day_of_week": 6,
        "user_age": 23,
        "account_balance": 1200.0,
    }
    status, answer = platform.ask("POST", "/predict", body)
    assert status == 200
    lines = platform.wait(lambda: found(platform, "--transaction", "tx-central"), "the line is in the store")
    prediction = next(line for line in lines if line["event"] == "prediction_made")
    assert prediction["replica_id"] == answer["replica_id"]
    assert prediction["log"]["file"] == f"{answer['replica_id']}-serve.log"
    assert lines == found(platform, "--transaction", "tx-central", "--files")


def test_events_of_all_parts_are_in_the_store_and_prometheus_counts_them(platform):
    ready = platform.wait(
        lambda: (
            {line["part"] for line in found(platform, "--event", "part_ready")} >= {"kafka", "prometheus"}
            and True
        ),
        "the supervisor's lines are in the store",
    )
    assert ready
    loaded = {line["replica_id"] for line in found(platform, "--event", "model_loaded", "--since", "1h")}
    assert loaded == {f"replica-{slot}" for slot in range(1, 5)}
    (shipped,) = platform.wait(
        lambda: platform.query("logs_shipped_total > 0"), "Prometheus asks the shipper"
    )
    assert float(shipped["value"][1]) > 0
    assert platform.query('sum(logs_rejected_total{reason="mapping"})')[0]["value"][1] == "0"
    assert platform.query("sum(logs_dropped_total)")[0]["value"][1] == "0"
