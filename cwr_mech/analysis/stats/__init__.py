"""Statistics shared by analyses: intervals, subspaces, ridge, folds, dimension."""
