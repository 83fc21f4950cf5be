"""Signing with software keys, and checking signatures, in a process of its own beside the event loop."""
