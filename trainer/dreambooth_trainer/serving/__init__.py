"""A server of images from results, with the API of OpenAI for images."""
