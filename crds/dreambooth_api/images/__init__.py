"""Images of a result that are asked for."""
