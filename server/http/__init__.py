"""What Prometheus and probes ask over HTTP. Imported only where it is asked for."""
