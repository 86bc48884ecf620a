"""What trainer and operator agree on: one side writes it, the other reads it, with one type."""
