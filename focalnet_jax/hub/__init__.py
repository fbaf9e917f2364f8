"""The Hugging Face Hub: addresses hf://ORG/NAME and hf://datasets/ORG/NAME, downloads to its cache, and uploads."""
