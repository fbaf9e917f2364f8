"""The Hugging Face Hub: addresses hf://ORG/NAME, downloads to its cache, and uploads."""
