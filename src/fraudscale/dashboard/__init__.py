"""The Grafana dashboard, generated: its panels as a table, their limits from the alert rules, and Grafana's JSON of both."""
