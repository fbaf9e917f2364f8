"""Torch files, of both of its formats."""

from fuzz.runner import Family
from fuzz.weights import case_pth, prepare_pth

FAMILY = Family("pth", 2000, prepare_pth, case_pth, seconds=60)
