"""The processes of one machine: what runs, how it is watched, started again and stopped."""
