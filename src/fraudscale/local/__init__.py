"""The platform on one machine: its parts as data, and the supervisor that runs them."""
