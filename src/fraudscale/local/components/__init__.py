"""What the platform consists of: one file a component."""
