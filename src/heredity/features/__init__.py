"""What a model computes inside: activations, sparse autoencoders, and the lineage of their latents."""
