"""The console: one web page that shows the platform of this machine, for those without Grafana."""
