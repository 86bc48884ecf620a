"""Generates the chart's schema, README, permissions, alert rules and dashboards."""
