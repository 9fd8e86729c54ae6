"""The nodes that share a store, and the questions that they send each other."""
