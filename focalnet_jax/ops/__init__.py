"""Operations of focal modulation: a reference implementation of each, and faster implementations by platform."""
