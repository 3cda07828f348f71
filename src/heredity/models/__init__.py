"""The torch side: load a checkpoint, pour a point into a live model, evaluate, train. Needs the extra `models`."""
