"""Many devices: the mesh and who holds what."""
