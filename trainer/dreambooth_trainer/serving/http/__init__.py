"""HTTP: who may ask, what requests say, and how they are answered."""
