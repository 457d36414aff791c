"""The log lines of all parts in one place: shipped to an OpenSearch or Elasticsearch, and found again."""
