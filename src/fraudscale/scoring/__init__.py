"""Bytes to records, features, the model and the one scorer behind both doors."""
