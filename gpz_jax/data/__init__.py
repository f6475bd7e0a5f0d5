"""Image data: where it comes from, who may see what, and how it reaches the network."""
