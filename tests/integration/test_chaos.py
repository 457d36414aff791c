"""Whatever is killed, every record sent is scored or dead-lettered, once: real scorers, and every id counted.

`make chaos` runs the last test for many rounds.
"""

import os
import random

import pytest
from chaos import Draw, Faults, Flow, Observer, Scorers, freeze_in_a_transaction, lay_model, say
from test_stream_kafka import on_both_kafkas, wait_for

from fraudscale.config import KafkaSettings
from fraudscale.kafka.topics import create_topics


@pytest.fixture(scope="session")
def models(tmp_path_factory, make_artifact):
    return lay_model(tmp_path_factory.mktemp("models"), make_artifact)


@pytest.fixture
def settings(kafka, request):
    """Small batches, so that a backlog is many transactions."""
    name = request.node.name.replace("[", "-").replace("]", "")[:100]
    found = KafkaSettings(
        kafka_bootstrap_servers=kafka.bootstrap,
        kafka_topic=name,
        kafka_group=f"group-{name}",
        kafka_batch_records=500,
    )
    create_topics(found)
    return found


@pytest.fixture
def scorers(settings, kafka, models, tmp_path):
    made = Scorers(settings, kafka.ports.stream, models, tmp_path)
    yield made
    made.close()


@pytest.fixture
def observer(settings):
    return Observer(settings)


@pytest.fixture
def flow(settings):
    made = Flow(settings)
    yield made
    made.end()


@on_both_kafkas
def test_a_scorer_killed_twice_in_the_middle_of_a_transaction_loses_and_doubles_nothing(
    flow, scorers, observer
):
    flow.send(20_000)
    written = 0
    for _ in range(2):
        scorers.start(0)
        written += freeze_in_a_transaction(scorers, 0, flow, observer)
        scorers.kill(0)
        flow.send(5_000)
    scorers.start(0, 1)
    observer.check(flow)
    assert observer.rolled_back >= written, "what was open when it was killed has become visible"


@on_both_kafkas
@pytest.mark.slow
def test_kills_under_a_steady_flow(flow, scorers, observer):
    scorers.start(0, 1, 2)
    flow.send(10_000)
    flow.run(2_000)
    for slot in (0, 0, 1, 2):
        wait_for(lambda slot=slot: scorers.owns(slot))
        wait_for(observer.transaction_is_open)
        scorers.kill(slot)
        scorers.start(slot)
    observer.check(flow)


@on_both_kafkas
@pytest.mark.slow
def test_a_scorer_that_froze_in_a_transaction_and_woke_up_too_late_doubles_nothing(flow, scorers, observer):
    flow.send(30_000)
    scorers.start(0)
    freeze_in_a_transaction(scorers, 0, flow, observer)
    scorers.start(1)
    wait_for(lambda: scorers.owns(1), 60)
    scorers.thaw(0)
    flow.send(5_000)
    observer.check(flow)


@on_both_kafkas
@pytest.mark.slow
def test_two_scorers_with_one_name_double_nothing(settings, flow, scorers, observer):
    flow.send(20_000)
    scorers.start(0)
    wait_for(observer.transaction_is_open)
    first = scorers.running.pop(0)
    scorers.start(0)
    flow.send(20_000)
    try:
        observer.check(flow)
    finally:
        first.kill()
        first.wait(10)


@on_both_kafkas
@pytest.mark.slow
def test_a_broker_that_is_killed_twice_under_a_steady_flow(flow, scorers, observer, kafka):
    scorers.start(0, 1)
    flow.run(2_000)
    for _ in range(2):
        wait_for(lambda: (waiting := observer.waiting()) is not None and waiting < 1_000, 60)
        flow.send(5_000)
        wait_for(observer.transaction_is_open)
        kafka.stop()
        kafka.start()
    flow.send(10_000)
    observer.check(flow, 180)


@on_both_kafkas
@pytest.mark.slow
def test_four_scorers_become_six_and_four_again(flow, scorers, observer):
    scorers.start(0, 1, 2, 3)
    wait_for(lambda: all(scorers.owns(slot) for slot in range(4)), 60)
    flow.run(3_000)
    scorers.start(4, 5)
    wait_for(lambda: scorers.owns(4) and scorers.owns(5), 60)
    flow.send(10_000)
    scorers.stop(1, 4)
    flow.send(10_000)
    observer.check(flow)


def pytest_generate_tests(metafunc):
    """Draw a new seed, and repeat the draws that failed before; `--seed` asks for one alone."""
    if "draw" not in metafunc.fixturenames:
        return
    rounds, seed = metafunc.config.getoption("rounds"), metafunc.config.getoption("seed")
    # Processes of pytest-xdist must collect the same tests; pytest-randomly seeds the shared generator with what it is given.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    drawn = random.Random(run).randrange(1_000_000) if seed is None else seed
    draws = [Draw(mode, drawn, rounds) for mode in ("kraft", "zookeeper")]
    draws += Draw.kept() if seed is None else []
    metafunc.parametrize(
        ("kafka", "draw"),
        [(draw.kafka, draw) for draw in dict.fromkeys(draws)],
        indirect=["kafka"],
        ids=["-".join(map(str, draw)) for draw in dict.fromkeys(draws)],  # a part of the topic's name
    )


def test_a_draw_that_fails_becomes_a_case_once(monkeypatch, tmp_path):
    file = tmp_path / "seeds.txt"
    file.write_text("# kept\n\nzookeeper 7 40 # lost a record\n")
    monkeypatch.setattr("chaos.KEPT_DRAWS", file)
    for draw in (Draw("kraft", 12, 4), Draw("kraft", 12, 4), Draw("zookeeper", 7, 40)):
        with pytest.raises(AssertionError), draw.kept_if_it_fails():
            raise AssertionError
    with Draw("kraft", 13, 4).kept_if_it_fails():
        pass
    assert Draw.kept() == [Draw("zookeeper", 7, 40), Draw("kraft", 12, 4)]
    assert Draw.kept()[0].command == "make chaos SEED=7 ROUNDS=40 KAFKA=zookeeper"


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_faults_drawn_at_random(draw, flow, scorers, observer, kafka):
    say(f"{draw}: `{draw.command}` draws the same faults")
    with draw.kept_if_it_fails():
        faults = Faults(scorers, kafka, draw.seed)
        scorers.start(0, 1, 2, 3)
        wait_for(lambda: all(scorers.owns(slot) for slot in range(4)), 60)
        flow.run(1_000)
        for number in range(1, draw.rounds + 1):
            say(f"{number}/{draw.rounds}: {faults.next()}; {flow.sent} sent, {observer.waiting()} waiting")
            wait_for(lambda: observer.waiting() is not None, 60)
            faults.wait()
        observer.check(flow, 300)
