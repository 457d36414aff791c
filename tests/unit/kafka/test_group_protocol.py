"""Which group protocol is spoken, by the setting and by what the broker says."""

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from fraudscale.config import KafkaSettings
from fraudscale.kafka import group_protocol
from fraudscale.kafka.client import BrokerUnavailable
from fraudscale.kafka.group_protocol import SESSION_MS, choose_protocol

KRAFT_4 = {
    "group.coordinator.rebalance.protocols": "classic,consumer,streams",
    "group.consumer.session.timeout.ms": "6000",
}
ZOOKEEPER = {
    "group.coordinator.rebalance.protocols": "classic",
    "group.consumer.session.timeout.ms": "6000",
}


class FakeAdmin:
    """A cluster of two brokers, of which the first is asked; an answer that is an error is raised."""

    def __init__(self, answer):
        self.answer = answer

    def list_topics(self, timeout):
        if self.answer is None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return SimpleNamespace(brokers={2: None, 1: None})

    def describe_configs(self, asked, request_timeout):
        (broker,) = asked
        assert broker.name == "1"

        def result():
            if isinstance(self.answer, int):
                raise KafkaException(KafkaError(self.answer))
            return {name: SimpleNamespace(value=value) for name, value in self.answer.items()}

        return {broker: SimpleNamespace(result=result)}


@pytest.fixture
def chosen(monkeypatch):
    def choose(wanted, answer, **more):
        monkeypatch.setattr(group_protocol, "admin_client", lambda _: FakeAdmin(answer))
        return choose_protocol(KafkaSettings(kafka_group_protocol=wanted), **more)

    return choose


@pytest.mark.parametrize(
    ("answer", "name", "session_ms"),
    {
        "Kafka 4": (KRAFT_4, "consumer", 6000),
        "ten seconds are soon enough": (KRAFT_4 | {group_protocol._SESSION: "10000"}, "consumer", 10_000),
        "Kafka 4 as it comes": (KRAFT_4 | {group_protocol._SESSION: "45000"}, "classic", SESSION_MS),
        "no word about silent members": (
            {group_protocol._PROTOCOLS: "consumer,classic"},
            "classic",
            SESSION_MS,
        ),
        "with ZooKeeper": (ZOOKEEPER, "classic", SESSION_MS),
        "an old broker": ({}, "classic", SESSION_MS),
        "a user who may not ask": (KafkaError.CLUSTER_AUTHORIZATION_FAILED, "classic", SESSION_MS),
        "a broker that can't be asked": (KafkaError._UNSUPPORTED_FEATURE, "classic", SESSION_MS),
    }.values(),
)
def test_the_new_protocol_is_spoken_on_the_brokers_word_only(chosen, answer, name, session_ms):
    protocol = chosen("auto", answer)
    assert (protocol.name, protocol.session_timeout_ms) == (name, session_ms)


def test_a_cluster_that_refused_the_new_protocol_is_spoken_to_in_the_old_one(chosen):
    assert chosen("auto", KRAFT_4, refused=True) == ("classic", SESSION_MS, 0)
    assert chosen("auto", KRAFT_4).group_version == 1


def test_what_is_set_is_spoken_whatever_the_broker_says(chosen):
    assert chosen("classic", None) == ("classic", SESSION_MS, None), "it is not even asked"
    assert chosen("consumer", ZOOKEEPER | {group_protocol._SESSION: "45000"}) == (
        "consumer",
        45_000,
        0,
    )
    assert chosen("consumer", KRAFT_4, refused=True).name == "consumer"


@pytest.mark.parametrize("answer", [None, KafkaError._TIMED_OUT])
def test_a_broker_that_does_not_answer_is_no_reason_for_the_old_protocol(chosen, answer):
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:9092: "):
        chosen("auto", answer)


def test_a_cluster_that_names_no_broker_is_asked_again(chosen, monkeypatch):
    """A broker that its controller takes for dead, on a machine without time for it, leaves itself out."""
    monkeypatch.setattr(FakeAdmin, "list_topics", lambda *_, **__: SimpleNamespace(brokers={}))
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:9092: the cluster names no broker"):
        chosen("auto", KRAFT_4)


def test_no_server_to_ask_is_said_with_its_address(monkeypatch):
    monkeypatch.setattr(group_protocol, "ASK_SECONDS", 0.1)
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1: "):
        choose_protocol(KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1"))
