"""What is trained on: images, captions, class images, and the batches made from them."""
