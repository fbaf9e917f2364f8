"""Nothing in a file is imported or executed, and errors name the type of files that are not weights."""

import copyreg
import io
import os
import pickle
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from focalnet_jax.convert.weights import read_weights
from focalnet_jax.errors import UserError
from tests.convert.golden_files import GOLDEN, OPTIONS
from tests.convert.test_layouts import TENSORS, holds
from tests.convert.torch_writer import Call, Global, View, encode, save, save_legacy


def read(path):
    return read_weights(path, options=OPTIONS["timm_lrf"])


@pytest.fixture
def unharmed(tmp_path, monkeypatch):
    """Checks that a test imports no module, runs no program and writes no file other than its own."""
    ran = []
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    for module, name in ((os, "system"), (os, "popen"), (os, "remove")):
        monkeypatch.setattr(module, name, lambda *_, name=name: ran.append(name))
    loaded = set(sys.modules)
    yield tmp_path
    assert not ran
    assert not {"trap", "antigravity", "this"} & (set(sys.modules) - loaded)
    assert not (tmp_path / "ran").exists()


def malicious(mark):
    """Returns objects next to the weights that would cause harm in an ordinary unpickler."""
    touch = f"touch {mark}"
    return {
        "system": Call("os system", (touch,)),
        "posix": Call("posix system", (touch,)),
        "popen": Call("subprocess Popen", (["touch", str(mark)],)),
        "popen as torch writes it": Call("commands Popen", (["touch", str(mark)],)),
        "eval": Call("builtins eval", (f"open({str(mark)!r}, 'w')",)),
        "python2": Call("__builtin__ eval", (f"open({str(mark)!r}, 'w')",)),
        "open": Call("builtins open", (str(mark), "w")),
        "import": Call("importlib import_module", ("trap",)),
        "nested": Call("collections OrderedDict", ([["a", Call("os system", (touch,))]],)),
        "argument": Call("torch._utils _rebuild_tensor_v2", (Call("os system", (touch,)),)),
        "state": Call("my.code Thing", state=Call("os system", (touch,))),
        "storage": Call("builtins exec", (f"open({str(mark)!r}, 'w')",)),
    }


INERT = {
    "getattr": Call("builtins getattr", (Global("os"[:2] + " path"), "system")),
    "name": Global("os system"),
    "class": Call("trap Trap", (1,), state={"x": 1}),
    "setattr": Call("builtins setattr", (Global("torch Tensor"), "__setstate__", Global("os system"))),
    "setstate": Call("collections OrderedDict", state={"__setstate__": Global("os system"), "__class__": 1}),
    "apply": Call("functools partial", (Global("os system"), "touch ran"), state=(Global("os system"), (), {}, None)),
    "map": Call("builtins map", (Global("os system"), ["touch ran"])),
    "reconstruct": Call("copyreg _reconstructor", (Global("trap Trap"), Global("builtins object"), None)),
    "called result": Call("operator methodcaller", ("system",)),
    "load": Call("torch.storage _load_from_bytes", (b"\x80\x02cos\nsystem\n(X\x01\x00\x00\x00atR.",)),
    "hub": Call("torch.hub load", ("a/b", "c")),
    "jit": Call("torch.jit load", ("x",)),
    "file": Call("numpy fromfile", ("x",)),
    "dunder": Call("torch Tensor.__class__.__base__", ()),
}


@pytest.mark.fault(40)
@pytest.mark.parametrize("name", malicious(""))
def test_a_pickle_that_would_run_something_is_refused_and_not_executed(name, unharmed):
    thing = malicious(unharmed / "ran")[name]
    for content in ({"model": TENSORS, "extra": thing}, {**TENSORS, "stem.proj.weight": thing}, thing):
        for write in (save, save_legacy):
            with pytest.raises(UserError, match=r"is rejected: it tries to run .*; nothing was run"):
                read(write(content, unharmed / "file.pth"))


@pytest.mark.parametrize("name", INERT)
def test_an_object_beside_the_weights_is_inert_whatever_its_class(name, unharmed):
    for write in (save, save_legacy):
        assert holds(read(write({"model": TENSORS, "extra": INERT[name], "more": [INERT[name]]}, unharmed / "f.pth")))
    for content in ({**TENSORS, "stem.proj.weight": INERT[name]}, INERT[name]):
        with pytest.raises(UserError):
            read(save(content, unharmed / "f.pth"))


def opcodes(*parts):
    """Returns a pickle of a dictionary with the weights, with additional opcodes before its end."""
    storages = []
    return encode(TENSORS, storages)[:-1] + b"".join(parts) + b"u."


TOUCH = b"X\x09\x00\x00\x00touch ran"
TRICKS = {
    "stack global": b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93" + TOUCH + b"\x85R.",
    "nested name": b"X\x02\x00\x00\x00osX\x0d\x00\x00\x00path.__name__X\x06\x00\x00\x00system\x93\x93"
    + TOUCH
    + b"\x85R.",
    "inst": b"(" + TOUCH + b"ios\nsystem\n.",
    "obj": b"(cos\nsystem\n" + TOUCH + b"o.",
    "newobj": b"cos\nsystem\n" + TOUCH + b"\x85\x81.",
    "newobj_ex": b"cos\nsystem\n" + TOUCH + b"\x85}\x92.",
    "memo": b"cos\nsystem\nq\x000h\x00" + TOUCH + b"\x85R.",
    "extension": b"\x82\x01" + TOUCH + b"\x85R.",
    "text id": b"P/etc/passwd\n.",
    "odd id": TOUCH + b"Q.",
    "id of a call": b"cos\nsystem\n" + TOUCH + b"\x85RQ.",
    "build": b"ctrap\nTrap\n)\x81}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb.",
    "state twice": b"ctrap\nTrap\n)\x81cos\nsystem\nb" + TOUCH + b"b.",
    "huge text": b"X\xff\xff\xff\xffx.",
    "huge bytes": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.",
    "huge memo": b"}r\xff\xff\xff\xff.",
    "huge frame": b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
    "huge number": b"\x8b\xff\xff\xff\x7f\x01.",
    "no memo": b"h\x05.",
    "no mark": b"t.",
    "empty stack": b"R.",
    "no end": b"}",
    "deep": b"]" * 20000 + b"a" * 19999 + b".",
    "itself": b"]q\x00h\x00a.",
    "itself as key": b"}q\x00h\x00h\x00s.",
    "laughs": b"K\x00" + b"2\x86" * 100 + b".",
    "laughs as key": b"}K\x00" + b"2\x86" * 100 + b"K\x01s.",
}


@pytest.mark.fault(40)
@pytest.mark.parametrize("name", TRICKS)
def test_tricks_with_opcodes_are_refused_in_one_line_and_run_nothing(name, unharmed, monkeypatch):
    copyreg.add_extension("os", "system", 1)
    try:
        paths = [save(None, unharmed / "zip.pth", pickle=TRICKS[name]), unharmed / "plain.pth"]
        paths[1].write_bytes(b"\x80\x02" + TRICKS[name])
        for path in paths:
            with pytest.raises(UserError) as caught:
                read(path)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 1000
    finally:
        copyreg.remove_extension("os", "system", 1)


BIAS = TENSORS["stem.norm.bias"]
OUTSIDE = {
    "beyond the end": View(BIAS, (8,), (1,), offset=1),
    "strides beyond": View(BIAS, (8,), (2,)),
    "more than stored": View(BIAS, (8,), (0,), claimed=10**12),
    "expanded": View(np.ones(1, np.float32), (8,), (0,)),
    "enormous": View(BIAS, (2**40, 2**40), (0, 0)),
    "negative": View(BIAS, (8,), (-1,), offset=7),
    "before": View(BIAS, (8,), (1,), offset=-4),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(name, tmp_path):
    for write in (save, save_legacy):
        if write is save or OUTSIDE[name].claimed is None:
            with pytest.raises(UserError, match=r"stem\.norm\.bias"):
                read(write(TENSORS | {"stem.norm.bias": OUTSIDE[name]}, tmp_path / "file.pth"))
        # next to the weights it does no harm
        assert holds(read(write({"model": TENSORS, "optimizer": [OUTSIDE[name]]}, tmp_path / "file.pth")))


def test_tensors_that_share_a_storage_in_any_order_are_read(tmp_path):
    joined = np.concatenate([value.ravel() for value in TENSORS.values()])
    views, start = {}, 0
    for name, value in TENSORS.items():
        steps = tuple(stride // 4 for stride in np.ascontiguousarray(value).strides)
        views[name] = View(joined, value.shape, steps, offset=start)
        start += value.size
    kernel = TENSORS["head.fc.weight"]
    views["head.fc.weight"] = View(np.asfortranarray(kernel).ravel("K"), kernel.shape, (1, kernel.shape[0]))
    for write in (save, save_legacy):
        assert holds(read(write(views, tmp_path / "file.pth")))


def test_changed_and_cut_files_are_damaged(tmp_path):
    whole = save({"state_dict": TENSORS}, tmp_path / "file.pth").read_bytes()
    place = whole.index(TENSORS["stem.proj.weight"].tobytes()[:64])
    changed = bytearray(whole)
    changed[place + 7] ^= 1
    (tmp_path / "file.pth").write_bytes(changed)
    with pytest.raises(UserError, match=r"damaged: the checksum of its record data/\d+ is wrong"):
        read(tmp_path / "file.pth")
    legacy = save_legacy(TENSORS, tmp_path / "legacy.pth").read_bytes()
    safe = (GOLDEN / "timm_lrf.safetensors").read_bytes()
    for content in (whole, legacy, safe):
        for share in (0.001, 0.1, 0.5, 0.999):
            (tmp_path / "cut.bin").write_bytes(content[: int(share * len(content))])
            with pytest.raises(UserError, match=r"damaged(,| or) truncated"):
                read(tmp_path / "cut.bin")


def as_zip(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def as_tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())


WHOLE = Call("timm.models.focalnet FocalNet", state={"_modules": {}, "_parameters": {}})
NOT_WEIGHTS = {
    "a TorchScript program": lambda path: as_zip(path, "m/constants.pkl", "m/data.pkl", "m/code/__torch__.py"),
    "an exported program": lambda path: as_zip(path, "m/archive_format", "m/models/model.json", "m/byteorder"),
    "an exported program (torch.export.save)": lambda path: as_zip(path, "serialized_exported_program.json", "version"),
    "a torch.package": lambda path: as_zip(path, "p/.data/extern_modules", "p/model.pkl"),
    "a NumPy archive": lambda path: np.savez(path.open("wb"), a=np.ones(2)),
    "a Keras model": lambda path: as_zip(path, "config.json", "model.weights.h5"),
    "a zip of other files (a.txt, b.txt)": lambda path: as_zip(path, "a.txt", "b.txt"),
    "contains a pickled model, timm.models.focalnet.FocalNet": lambda path: save(WHOLE, path),
    "contains a pickled model": lambda path: save({"epoch": 3, "model": WHOLE, "ema": None}, path),
    "a Git LFS pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"),
    "a web page": lambda path: path.write_text("\n<!DOCTYPE html><html><title>Log in</title>"),
    "an XML document": lambda path: path.write_text("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
    "JSON text": lambda path: path.write_text('{"error": "Repository not found"}'),
    "is empty": lambda path: path.write_bytes(b""),
    "an HDF5 file": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "an ONNX model": lambda path: path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.4.0:" + bytes(100)),
    "a TensorFlow Lite model": lambda path: path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(100)),
    "compressed with gzip": lambda path: path.write_bytes(b"\x1f\x8b\x08\0" + bytes(100)),
    "a tar archive": as_tar,
    "a JPEG image": lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100)),
    "begins with zeros": lambda path: path.write_bytes(bytes(5000)),
    "does not begin like a zip": lambda path: path.write_bytes(b"\x17\x03\x99" * 50),
    "contains no state dict": lambda path: save([1, 2], path),
    "no FocalNet weights": lambda path: save({"patch_embed.proj.weight": np.ones((3, 3, 4, 4), np.float32)}, path),
}


@pytest.mark.parametrize("what", NOT_WEIGHTS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_weights_are_named_by_their_kind(what, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    NOT_WEIGHTS[what](path)
    with pytest.raises(UserError) as caught:
        read(path)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tensors_of_other_kinds_are_named_where_they_are_needed(tmp_path):
    for function in ("torch._utils _rebuild_qtensor", "torch._utils _rebuild_sparse_tensor"):
        odd = Call(function, (1, 2))
        with pytest.raises(UserError, match=r"stem\.proj\.weight is stored as torch\._utils\._rebuild_"):
            read(save(TENSORS | {"stem.proj.weight": odd}, tmp_path / "file.pth"))
        assert holds(read(save({"model": TENSORS, "odd": odd}, tmp_path / "file.pth")))
    safetensors.numpy.save_file(TENSORS | {"stem.norm.bias": np.zeros(8, np.int64)}, tmp_path / "file.pth")
    with pytest.raises(UserError, match="expected one of float32, float16, bfloat16, float64"):
        read(tmp_path / "file.pth")


CALLED = []


def _call(what):
    CALLED.append(what)


class Real:
    """A class that an ordinary unpickler would import and call."""

    def __reduce__(self):
        return _call, ("called",)


def test_functions_are_not_called_even_where_they_are_loaded(tmp_path):
    content = pickle.dumps({"model": TENSORS, "beside": Real(), "class": Real})
    pickle.loads(content)
    assert CALLED.pop() == "called"  # as in an ordinary unpickler
    (tmp_path / "file.pkl").write_bytes(content)
    assert holds(read(tmp_path / "file.pkl"))
    assert not CALLED
