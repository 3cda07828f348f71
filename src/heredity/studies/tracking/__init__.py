"""Features through any family: `heredity track`, the feature study's stages over models that are there already."""
