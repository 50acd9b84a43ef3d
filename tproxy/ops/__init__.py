"""What operators see: logs, checks, health and metrics."""
