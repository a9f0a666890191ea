"""Linear probes from activations to coordinates, their controls, erasure and surfacing."""
