"""Safetensors files, whole and in shards."""

from fuzz.runner import Family
from fuzz.weights import case_safetensors, prepare_safetensors

FAMILY = Family("safetensors", 3000, prepare_safetensors, case_safetensors, seconds=60)
