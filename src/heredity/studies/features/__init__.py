"""Features through fine-tuning and merging: the study of arXiv 2410.12391, on text that comes with packages."""
