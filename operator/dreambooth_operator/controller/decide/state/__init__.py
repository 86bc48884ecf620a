"""What `decide` reads and writes: the observed objects, the attempts of a status, the decision."""
