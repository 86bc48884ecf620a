"""Rules between the sections of a spec, by what they are about."""
