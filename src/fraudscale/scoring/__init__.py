"""Bytes to records, features, the model and the one scorer behind the HTTP endpoint and the Kafka consumer."""
