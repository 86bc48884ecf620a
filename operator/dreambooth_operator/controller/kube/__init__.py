"""The API server: client, errors, session, clock, leader election, snapshots of objects."""
