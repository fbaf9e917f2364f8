"""Evaluate a checkpoint on all validation images: python eval.py --config configs/X.py --checkpoint WORKDIR."""

import runpy
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    runpy.run_module("focalnet_jax.eval", run_name="__main__")
