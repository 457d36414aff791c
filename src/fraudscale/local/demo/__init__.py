"""Demonstrations that are compared with their rehearsal."""
