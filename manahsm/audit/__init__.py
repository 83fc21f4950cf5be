"""The audit log: nothing leaves without a record."""
