"""What becomes of a batch one of whose outputs a broker will never take."""

import pytest
from confluent_kafka import KafkaError
from scored_records import record

from fraudscale.kafka.dead_letters import DeadLetter
from fraudscale.kafka.delivery import OutputRefused
from fraudscale.kafka.messages import Output
from fraudscale.kafka.plan import Plan
from fraudscale.kafka.refusals import MOST_REFUSALS, Refusals

TOO_LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large")
INVALID = KafkaError(KafkaError.INVALID_RECORD, "no key")


def output(offset, *, key=b"k", topic="in.scored"):
    return Output(topic, key, b"v", [("source-record", f"in/0/{offset}")])


def plan_of(*records, dead=()):
    scored = [output(r.offset, key=r.key) for r in records]
    return Plan(len(scored), scored, [DeadLetter(r, "validation", "hour", "no") for r in dead])


def applied(refusals, *records, dead=()):
    planned = plan_of(*records, dead=dead)
    refusals.apply(planned, [*records, *dead], "in.dead-letter")
    letters = [(x.record.offset, x.reason, x.refusals) for x in planned.dead]
    return [dict(o.headers)["source-record"] for o in planned.scored], planned.scores, letters


def test_a_refused_score_becomes_a_dead_letter_that_says_who_refused_it():
    refusals = Refusals()
    refusals.note(OutputRefused("no", [(output(1), TOO_LARGE)]))
    scored, count, letters = applied(refusals, record(0), record(1), dead=[record(2)])
    assert (scored, count) == (["in/0/0"], 1)
    assert letters == [(2, "validation", 0), (1, "delivery", 0)]
    planned = plan_of(record(1))
    refusals.apply(planned, [record(1)], "in.dead-letter")
    assert planned.dead[0].detail == "in.scored: too large"


def test_a_refused_dead_letter_is_made_smaller_until_there_is_nothing_to_try():
    refusals = Refusals()
    for refused in range(MOST_REFUSALS):
        assert refusals.note(OutputRefused("no", [(output(1), TOO_LARGE), (output(2), TOO_LARGE)]))
        assert applied(refusals, record(1), dead=[record(2)])[2] == [
            (2, "validation", refused + 1),
            (1, "delivery", refused),
        ]
    assert not refusals.note(OutputRefused("no", [(output(1), TOO_LARGE)]))


def test_a_compacted_topic_refuses_all_that_have_no_key():
    refusals = Refusals()
    refusals.note(OutputRefused("no", [(output(1, key=None), INVALID)]))
    keyless = [record(i, key=None) for i in (1, 2)]
    assert applied(refusals, *keyless, record(3), dead=[record(4, key=None)]) == (
        ["in/0/3"],
        1,
        [(4, "validation", 0), (1, "delivery", 0), (2, "delivery", 0)],
    )
    refusals.note(OutputRefused("no", [(output(1, key=None, topic="in.dead-letter"), INVALID)]))
    assert applied(refusals, keyless[1], dead=[record(4, key=None)])[2] == [
        (4, "validation", 1),
        (2, "delivery", 1),
    ]


@pytest.mark.parametrize("error", [TOO_LARGE, INVALID])
def test_another_refusal_says_nothing_of_other_records(error):
    refusals = Refusals()
    refusals.note(OutputRefused("no", [(output(1, key=None if error is TOO_LARGE else b"k"), error)]))
    assert applied(refusals, record(2, key=None))[1] == 1


def test_a_refusal_without_a_name_makes_suspects_of_the_batch_until_they_are_committed():
    refusals = Refusals()
    refusals.note(OutputRefused("no", records=3))
    assert (refusals.suspects, refusals.pending) == (3, True)
    refusals.note(OutputRefused("no", [(output(1, key=None), INVALID)], records=2))
    refusals.forget([record(0), record(1)])
    assert refusals.suspects == 1
    refusals.forget([record(2), record(3)])
    assert (refusals.suspects, refusals.pending) == (0, False)


def test_a_refusal_without_a_name_of_a_batch_that_was_written_singly_leaves_nothing_to_try():
    refusals = Refusals()
    assert refusals.note(OutputRefused("no", records=3)), "written singly it may get a name"
    assert not refusals.note(OutputRefused("no", records=3))


def test_what_was_refused_in_a_partition_that_is_gone_is_its_new_owners():
    refusals = Refusals()
    for _ in range(MOST_REFUSALS + 1):
        refusals.note(OutputRefused("no", [(output(1), TOO_LARGE)]))
    refusals.retain({1, 2})
    assert not refusals.pending
    assert refusals.note(OutputRefused("no", [(output(2), TOO_LARGE)])), (
        "the other's last try says nothing of it"
    )
    refusals.retain({0})
    assert refusals.pending
