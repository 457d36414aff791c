"""Rehearsal: what an HPA would do with a load, in simulated time, and how long requests would take."""
