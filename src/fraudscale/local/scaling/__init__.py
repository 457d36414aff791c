"""The autoscaler of one machine."""
