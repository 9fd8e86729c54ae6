"""The state and the metrics of this node."""
