"""The ground between and around models: searches over points of a family by a loss."""
