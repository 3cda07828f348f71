"""numba kernels: decode and encode number formats, weighted sums and Gram matrices of blocks."""
