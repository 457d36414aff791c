"""A fraud-scoring platform: HTTP and Kafka doors over one model."""

__version__ = "0.1.0"
