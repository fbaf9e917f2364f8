"""Train a FocalNet, or resume a run: python train.py --config configs/quickstart.py --workdir runs/quickstart."""

import runpy
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    runpy.run_module("focalnet_jax.train", run_name="__main__")
