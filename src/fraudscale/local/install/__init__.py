"""What this machine has, and what is downloaded to it."""
