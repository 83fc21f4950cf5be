"""Signing with software keys in a process of its own, beside the event loop."""
