"""Logs, traces and probes of a process."""
