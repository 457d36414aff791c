"""A fraud-scoring platform: an HTTP endpoint and a Kafka consumer over one scorer."""

__version__ = "0.1.0"
