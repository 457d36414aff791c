"""Which topics are made, and what a refusal is called."""

import pytest
from confluent_kafka import KafkaError
from fake_clients import failure

from fraudscale.config import KafkaSettings
from fraudscale.kafka import topics
from fraudscale.kafka.client import MAX_RECORD_BYTES, BrokerUnavailable


class Answer:
    def __init__(self, code):
        self.code = code

    def result(self):
        if self.code is not None:
            raise failure(self.code)


@pytest.fixture
def admin(monkeypatch):
    """`admin(codes)`: a broker that answers for each topic that has one with that error."""

    def make(**codes):
        asked = {}

        class Admin:
            def create_topics(self, wanted, request_timeout):
                asked.update({topic.topic: topic for topic in wanted})
                return {name: Answer(codes.get(name.replace(".", "_").replace("-", "_"))) for name in asked}

        monkeypatch.setattr(topics, "admin_client", lambda _: Admin())
        return asked

    return make


def test_topics_that_are_missing_are_created_and_named(admin):
    asked = admin(in_scored=KafkaError.TOPIC_ALREADY_EXISTS)
    created = topics.create_topics(KafkaSettings(kafka_topic="in", kafka_partitions=3))
    assert created == ["in", "in.dead-letter", "in.labels"]
    assert {name: topic.num_partitions for name, topic in asked.items()} == {
        "in": 3,
        "in.scored": 3,
        "in.dead-letter": 1,
        "in.labels": 3,
    }


def test_outputs_may_be_larger_than_inputs(admin):
    asked = admin()
    topics.create_topics(KafkaSettings(kafka_topic="in"))
    larger = [name for name, topic in asked.items() if "max.message.bytes" in topic.config]
    assert larger == ["in.scored", "in.dead-letter"]
    assert asked["in.scored"].config["max.message.bytes"] == str(MAX_RECORD_BYTES)


def test_a_refusal_names_topic_and_broker(admin):
    admin(in_labels=KafkaError.POLICY_VIOLATION)
    with pytest.raises(BrokerUnavailable, match=r"in\.labels can't be created at 127\.0\.0\.1:9092"):
        topics.create_topics(KafkaSettings(kafka_topic="in"))
