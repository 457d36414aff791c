"""The client library's producer and consumer, as far as our own logic sees them: what they are asked, and failures on demand."""

from types import SimpleNamespace

from confluent_kafka import KafkaError, KafkaException


def failure(code, **flags):
    """What the client raises; `flags` are `fatal`, `retriable`, `txn_requires_abort`."""
    return KafkaException(KafkaError(code, **flags))


class FakeProducer:
    """Notes each call by its name; `fails[name]` is raised by each call of that name, or by those of a list where it isn't None."""

    def __init__(self, *, room: int = 1_000_000, **fails):
        self.calls = []
        self.fails = fails
        self.room = room
        """Records that fit before the queue is full; `poll` makes room for one more."""
        self.unsent = 0
        self.reports = {}
        """Key → what the report on a record with it says."""
        self.reports_late = False
        """Reports come with `flush`, as those of the client do."""
        self.late = []
        self.topics = {"in.scored": [0, 1], "in.dead-letter": [0], "transactions": [0]}

    def _note(self, name, *details):
        self.calls.append((name, *details))
        wrong = self.fails.get(name)
        if isinstance(wrong, list):
            wrong = wrong.pop(0) if wrong else None
        if wrong is not None:
            raise wrong

    def names(self):
        return [name for name, *_ in self.calls]

    def init_transactions(self, seconds):
        self._note("init_transactions")

    def begin_transaction(self):
        self._note("begin_transaction")

    def produce(self, topic, value=None, key=None, partition=-1, on_delivery=None, *more, **named):
        if self.room <= 0:
            raise BufferError
        self.room -= 1
        self._note("produce", topic, partition)
        if on_delivery is not None and (error := self.reports.get(key)) is not None:
            if self.reports_late:
                self.late.append(lambda: on_delivery(error, None))
            else:
                on_delivery(error, None)

    def poll(self, seconds):
        self.room += 1

    def flush(self, seconds):
        self._note("flush")
        while self.late:
            self.late.pop(0)()
        return self.unsent

    def purge(self):
        self._note("purge")

    def send_offsets_to_transaction(self, offsets, group, seconds):
        self._note("send_offsets", [(p.topic, p.partition, p.offset, p.metadata) for p in offsets], group)

    def commit_transaction(self, *seconds):
        self._note("commit_transaction")

    def abort_transaction(self, seconds):
        self._note("abort_transaction")

    def list_topics(self, topic, seconds):
        partitions = dict.fromkeys(self.topics.get(topic, ()))
        error = None if topic in self.topics else KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return SimpleNamespace(topics={topic: SimpleNamespace(error=error, partitions=partitions)})


class FakeMessage:
    """A record as the client gives it, or an error."""

    def __init__(self, partition=0, offset=0, *, error=None, value=b"", timestamp=(1, 1000), **more):
        fields = {"topic": "in", "partition": partition, "offset": offset, "error": error, "value": value}
        fields |= {"key": b"k", "headers": None, "timestamp": timestamp} | more
        for name, content in fields.items():
            setattr(self, name, lambda content=content: content)

    def __len__(self):
        return len(self.value() or b"")
