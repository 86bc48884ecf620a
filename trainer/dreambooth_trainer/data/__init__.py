"""Training data: images, captions, class images, and the batches drawn from them."""
