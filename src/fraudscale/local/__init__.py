"""The platform on one machine: its components as data, and the supervisor that runs them."""
