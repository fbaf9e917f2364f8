"""Runs a command with a server of Cloud Storage on this machine, which has the bucket gs://bucket.

  python -m tests.storage.serve [--failing 0.02] -- python train.py --workdir gs://bucket/run ...

With --failing, this share of all requests fails: errors 429, 500 and 503, and cut connections. The objects are kept in
memory and are gone when the command ends.
"""

import argparse
import collections
import subprocess
import sys

from tests.storage.proxy import Proxy, failing

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failing", type=float, default=0.0)
    parser.add_argument("command", nargs="+")
    flags = parser.parse_args()
    proxy = Proxy()
    try:
        proxy.faults = failing(flags.failing)
        code = subprocess.run(flags.command, env=proxy.environment).returncode
    finally:
        proxy.close()
    faults = collections.Counter(str(request.fault) for request in proxy.requests if request.fault)
    print(f"{len(proxy.requests)} requests; failed: {dict(faults)}", file=sys.stderr)
    sys.exit(code)
