"""What an operator sees: metrics, alerts, dashboards, a live view, where time goes."""
