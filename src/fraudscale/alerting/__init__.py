"""What is watched and told: the alert rules and Alertmanager's configuration, rendered from files and settings."""
