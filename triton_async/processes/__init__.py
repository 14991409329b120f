"""Front-end processes: what they and the model process say to each other, and the server as it looks from there."""
