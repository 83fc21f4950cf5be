"""Knowing how the service is: health checks, alerts and where they go, metrics."""
