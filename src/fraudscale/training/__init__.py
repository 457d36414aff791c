"""From transactions with labels to a registered model."""
