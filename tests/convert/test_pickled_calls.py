"""A pickle that calls a function which runs programs or code is an error, however the call is encoded."""

import ctypes
import importlib
import io
import marshal
import os
import pickle
import pty
import runpy
import shutil
import socket
import subprocess
import sys
import webbrowser

import pytest

from focalnet_jax.convert.pickles import AttackError, read_pickle

PROGRAMS = {
    f"{function.__module__}.{function.__qualname__}": function
    for function in (
        *(os.system, os.execv, os.remove, subprocess.Popen, subprocess.run, pty.spawn, webbrowser.open),
        *(eval, exec, compile, open, __import__, importlib.import_module, runpy.run_path, pickle.loads, marshal.loads),
        *(shutil.rmtree, socket.socket, ctypes.CDLL, sys.setprofile),
    )
}


@pytest.mark.fault(40)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_call_that_runs_a_program_is_refused_in_every_protocol_and_opcode(name, protocol):
    named = pickle.dumps(PROGRAMS[name], protocol).removesuffix(b".")  # protocols 0 to 2 write Python 2's names
    calls = [named + arguments for arguments in (b"(tR", b"(t\x81", b"(t}\x92")]
    calls.append(b"(" + named + b"o")
    if protocol < 4:
        start = named.index(b"c") if protocol < 2 else 2
        module, attribute = named[start + 1 :].split(b"\n")[:2]
        calls.append(b"(i" + module + b"\n" + attribute + b"\n")
    for call in calls:
        with pytest.raises(AttackError):
            read_pickle(io.BytesIO(call + b"."))
