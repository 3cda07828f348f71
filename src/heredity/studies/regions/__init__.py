"""The study of regions in weight space (Gueta et al. 2023, arXiv 2302.04863), in small and on real data."""
