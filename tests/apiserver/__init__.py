"""The one stand-in for a Kubernetes API server; `tests.cluster.api.contract` says what it shares with a real one."""
