"""MLflow: delivery of a run's metrics and artifacts."""
