"""Which model: the only room that knows MLflow."""
