"""Rehearsal: what an HPA would do with a load, in simulated time, and what its users would feel."""
