"""Ways in which an artifact's bytes can be wrong, for tests of every kind; the same ones in every run."""

import io
import random
import zipfile

import msgspec
import numpy as np

from fraudscale.scoring.model import ENGINE_FILE, GOLDEN_BYTES, GOLDEN_FILE, MANIFEST, SERVED_FILES, digest_of

WRONG = (None, True, -1, 1e308, 10**30, "", "x" * 1000, [], [[]], [None], {}, {"a": 1}, {"": [0.5]})
"""Values of other types, for each field of the manifest."""


def members(golden):
    with zipfile.ZipFile(io.BytesIO(golden)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(content, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, member in content.items():
            archive.writestr(name, member)
    return file.getvalue()


def header(text):
    """An array's file that has this header, and 64 bytes behind it."""
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + bytes(64)


def goldens(golden):
    """Files of golden rows that are none, by name."""
    arrays = members(golden)
    plain = io.BytesIO()
    np.save(plain, np.zeros(3))
    for name, rows in {
        "claims a terabyte": header(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 16), }"
        ),
        "negative": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 16), }"),
        "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (4, 16), }"),
        "texts": header("{'descr': '<U4', 'fortran_order': False, 'shape': (4,), }"),
        "no type": header("{'descr': 'nonsense', 'fortran_order': False, 'shape': (4,), }"),
        "no header": header("{"),
        "deep": header("(" * 5000),
        "version 9": b"\x93NUMPY\x09\x00" + bytes(64),
        "empty": b"",
        "a bomb": arrays["rows.npy"][:128] + bytes(GOLDEN_BYTES),
    }.items():
        yield name, packed(arrays | {"rows.npy": rows})
        yield f"{name}, answers", packed(arrays | {"probabilities.npy": rows})
    yield "without answers", packed({"rows.npy": arrays["rows.npy"]})
    yield "other method", packed(arrays, zipfile.ZIP_LZMA)
    yield "an array and no archive", plain.getvalue()
    yield "nothing", b""


def manifests(manifest):
    """Manifests of which one thing is wrong, by name."""
    good = msgspec.json.decode(manifest)
    for field in good:
        yield f"without {field}", msgspec.json.encode({k: v for k, v in good.items() if k != field})
        for value in WRONG:
            # the encoder knows no integers of that size
            changed = msgspec.json.encode(good | {field: "?" if value == 10**30 else value})
            yield f"{field} {value!r:.20}", changed.replace(b'"?"', str(value).encode())
    yield "no UTF-8", manifest.replace(b"champion", b"\xff").replace(b"seed", b"\xff")
    yield "half a surrogate", manifest.replace(b"seed", b"\\ud800")
    yield "deep", b'{"unknown": ' + b"[" * 100_000
    yield "huge number", manifest.replace(b'"threshold":0.5', b'"threshold":1e999')
    yield "no number", manifest.replace(b'"threshold":0.5', b'"threshold":NaN')
    yield "no categories", msgspec.json.encode(good | {"categories": [], "usual_amounts": []})
    yield "no features", msgspec.json.encode(good | {"features": []})
    yield "the same feature again", msgspec.json.encode(good | {"features": ["amount"] * 16})
    yield "amounts below -1", msgspec.json.encode(good | {"usual_amounts": [-5.0] * len(good["categories"])})


def bytes_of(content, times, seed):
    """The content cut, and with one byte changed, taken out or put in, at places by chance."""
    by_chance = random.Random(seed)
    for length in (0, 1, len(content) // 2, len(content) - 1):
        yield f"cut at {length}", content[:length]
    for _ in range(times):
        at, value = by_chance.randrange(len(content)), by_chance.randrange(256)
        yield f"{value} at {at}", content[:at] + bytes([value]) + content[at + 1 :]
        yield f"{value} into {at}", content[:at] + bytes([value]) + content[at:]
        yield f"without {at}", content[:at] + content[at + 1 :]


def artifacts(files, times=40):
    """Damaged artifacts by name, from a good one (file name → bytes).

    A changed file's hash is put right in the manifest, and left as it was: the first is what a broken export makes, the
    second what a broken disk makes.
    """
    cases = [(GOLDEN_FILE, *case) for case in goldens(files[GOLDEN_FILE])]
    cases += [(MANIFEST, *case) for case in manifests(files[MANIFEST])]
    for seed, name in enumerate((MANIFEST, *SERVED_FILES)):
        cases += [(name, *case) for case in bytes_of(files[name], times, seed)]
    for name, what, content in cases:
        changed = files | {name: content}
        yield f"{name}: {what}", changed
        if name != MANIFEST:
            manifest = msgspec.json.decode(files[MANIFEST])
            manifest["files"] = {one: digest_of(changed[one]) for one in (ENGINE_FILE, GOLDEN_FILE)}
            yield f"{name}: {what}, hashed", changed | {MANIFEST: msgspec.json.encode(manifest)}
