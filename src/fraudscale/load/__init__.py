"""The load test: arrivals fixed in advance, sent over HTTP or Kafka, latency counted from the intended send time."""
