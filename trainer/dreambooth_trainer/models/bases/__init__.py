"""What several model families share: their objective, their autoencoder, their tokens."""
