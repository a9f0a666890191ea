"""Mutations of files that hold arrays: HDF5 and safetensors, as other programs might write them."""

import json
import random
import struct
from pathlib import Path

import h5py
import numpy as np
import torch
from fuzzing.plain import change_bytes, places
from safetensors.torch import load_file, save_file


def h5_nodes(file: h5py.File) -> list[str]:
    """Names of all groups and datasets."""
    found: list[str] = []
    file.visit(found.append)
    return found


def change_h5(path: Path, rng: random.Random) -> str:
    """Change an HDF5 file through the library, as another program might."""
    with h5py.File(path, "a") as file:
        name = rng.choice(h5_nodes(file))
        attribute = rng.choice(sorted(file.attrs))
        ways = (
            "delete",
            "attribute gone",
            "attribute",
            "data",
            "type",
            "link",
            "huge",
            "value",
            "odd attribute",
        )
        way = rng.choice(ways)
        if way == "delete":
            del file[name]
        elif way == "attribute gone":
            del file.attrs[attribute]
        elif way == "attribute":
            odd = (
                "",
                "x",
                "[]",
                '["a", "a"]',
                "[1]",
                "{}",
                3,
                1.5,
                b"\xff",
                [1, 2],
                np.int16(3),
                "x" * 60_000,
            )
            file.attrs[attribute] = rng.choice(odd)
        elif way == "odd attribute":
            kinds = ("S5", ">i8", ">f4", "V7", "c16", [("a", "i4")])
            file.attrs[attribute] = np.zeros(rng.choice(((), (1,), (3, 2))), dtype=rng.choice(kinds))
        elif way == "data":
            del file[name]
            shape = rng.choice(((), (0,), (30,), (29,), (30, 0), (30, 6), (30, 6, 2)))
            file[name] = np.ones(shape, dtype=rng.choice(("f4", ">f8", "i8", "S3", "?", "f2", "c8", "u8")))
        elif way == "type":
            del file[name]
            odd = (
                h5py.Empty("f4"),
                np.dtype("i4"),
                np.array([(1, 2.0)], dtype="i4,f4"),
                b"text",
                "text",
                [b"a"] * 30,
            )
            file[name] = rng.choice(odd)
        elif way == "link":
            del file[name]
            links = (h5py.SoftLink("/" + name), h5py.SoftLink("/cities/id"), h5py.SoftLink("/none"))
            outside = (h5py.ExternalLink("other.h5", "/x"), h5py.ExternalLink("/etc/passwd", "/"))
            file[name] = rng.choice((*links, *outside, h5py.ExternalLink(path.name, "/" + name)))
        elif way == "huge":
            del file[name]
            shape = rng.choice(((30, 2**40), (2**40,), (30, 2**20), (2**62, 2)))
            chunks = tuple(min(n, rng.choice((1, 1024))) for n in shape)
            file.create_dataset(name, shape, rng.choice(("f4", "i8")), chunks=chunks, compression="gzip")
        elif isinstance(file[name], h5py.Dataset) and file[name].dtype.kind in "fiu":
            data = file[name][()]
            data.reshape(-1)[rng.randrange(data.size)] = rng.choice(
                (0, 1, 7) if data.dtype.kind != "f" else (np.nan, 1)
            )
            file[name][...] = data
    return f".h5: library, {way}"


def change_weights(path: Path, rng: random.Random) -> str:
    """Other types, shapes, names and values in a safetensors file, or another header."""
    way = rng.choice(("type", "shape", "name", "value", "not finite", "header", "header length"))
    if way == "header length":
        content = path.read_bytes()
        path.write_bytes(
            struct.pack("<Q", rng.choice((0, 1, 2**63, 100_000_001, len(content)))) + content[8:]
        )
        return f".safetensors: {way}"
    if way == "header":
        content = path.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        container, key = rng.choice(places(header))
        container[key] = rng.choice((0, 1, -1, 2**62, "F16", "I8", "x", [], [2**40], None))
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
        return f".safetensors: {way}"
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    if way == "type":
        kinds = (
            torch.float16,
            torch.bfloat16,
            torch.float64,
            torch.int8,
            torch.int64,
            torch.bool,
            torch.float8_e5m2,
        )
        tensors[name] = value.to(rng.choice(kinds))
    elif way == "shape":
        tensors[name] = rng.choice((value[:-1], value.reshape(-1), value[None], value[:0])).clone()
    elif way == "name":
        tensors[rng.choice(("x", name.upper(), "model.layers.99.x", "rotary_emb.inv_freq"))] = tensors.pop(
            name
        )
    elif way == "value":
        tensors[name] = value + 1
    else:
        value.reshape(-1)[0] = rng.choice((torch.nan, torch.inf))
    save_file({key: item.contiguous() for key, item in tensors.items()}, path)
    return f".safetensors: {way}"


def unsealed(path: Path, rng: random.Random) -> str:
    """Take the digest away as another program does, then change bytes: only the structure can tell."""
    with h5py.File(path, "a"):
        pass
    return f"{change_bytes(path, rng)}, no digest"
