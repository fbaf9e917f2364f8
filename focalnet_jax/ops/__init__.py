"""How focal modulation is computed: each operation has a reference form and faster forms by platform."""
