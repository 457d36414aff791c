"""Kafka: the only room that knows the client library."""
