"""Training on many devices: connecting processes, the mesh, and shardings of parameters and activations."""
