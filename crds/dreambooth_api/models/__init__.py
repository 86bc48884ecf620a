"""The pydantic models of a DreamBoothJob's spec and status, with the rules between fields."""
