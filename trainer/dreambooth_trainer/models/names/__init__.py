"""Names of weights in the formats of other tools."""
