"""Writes what the chart takes from elsewhere: its schema, README and permissions;
and its dashboards.
"""
