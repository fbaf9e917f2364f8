"""How focal modulation is computed: a reference implementation of each operation, and faster ones by platform."""
