"""What this process is and counts, for whoever looks after it."""
