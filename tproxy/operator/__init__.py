"""What should exist: from Destination resources to listeners, planned purely and performed by a reconciler."""
