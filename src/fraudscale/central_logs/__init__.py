"""The log lines of all components in one place: shipped to an OpenSearch or Elasticsearch, and found again."""
