"""The world manifold: on-manifold and off-manifold error, and when it forms."""
