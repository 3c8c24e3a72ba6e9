"""From results on disk to tables and verdicts."""
