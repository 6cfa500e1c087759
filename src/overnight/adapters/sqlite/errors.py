"""What a database can answer instead of doing what it was asked: the port's own errors."""

from overnight.ports import SchemaTooNew, StorageBusy, StorageError, StorageFailed, StorageFull

__all__ = ["SchemaTooNew", "StorageBusy", "StorageError", "StorageFailed", "StorageFull"]
