"""Code of pickles, written by hand: what torch.save would never write, or no longer does."""

import struct


def string(value):
    """A text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    """A whole number of any size."""
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def imported(full):
    """What is imported by a full name."""
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def call(full, *arguments, new=False):
    """A call, or the making of an object without its constructor."""
    return imported(full) + b"(" + b"".join(arguments) + b"t" + (b"\x81" if new else b"R")


def mapping(**items):
    """A dict."""
    return b"}(" + b"".join(string(key) + code for key, code in items.items()) + b"u"


def storage(key="0", *, legacy=False):
    """A storage of 16 floats, as files of torch.save name it."""
    named = [string("storage"), imported("torch.FloatStorage"), string(key), string("cpu"), number(16)]
    return b"(" + b"".join(named) + b"N" * legacy + b"tQ"


def part(of, size=4):
    """Storage, offset, shape and steps of a tensor, without the tuple around them."""
    return of + b"K\0" + number(size) + b"\x85K\x01\x85"


def tensor(of, size=4):
    """The first numbers of a storage."""
    return call("torch._utils._rebuild_tensor_v2", part(of, size), b"\x89", call("collections.OrderedDict"))
