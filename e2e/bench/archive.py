"""Checks that pandas and polars read the Parquet files of an archive, to the bit.

    PYTHONPATH=~/.cache/layra-testbed/parquet python3 e2e/bench/archive.py FOLDER EXPECTED.json

FOLDER has the files; EXPECTED.json is a list of [image_id, file_id, page_number, bits of the
vector]. `cargo e2e collection_life` runs this with a real archive.
"""

import glob
import json
import sys

import numpy
import pandas
import polars

FIELDS = ["pk", "image_id", "page_number", "file_id", "vector"]


def rows(images, files, pages, vectors):
    bits = [numpy.asarray(v, dtype=numpy.float32).view(numpy.uint32).tolist() for v in vectors]
    return sorted([i, f, int(p), b] for i, f, p, b in zip(images, files, pages, bits))


def main(folder, expected_file):
    with open(expected_file, encoding="utf-8") as file:
        expected = sorted(json.load(file))
    parts = sorted(glob.glob(f"{folder}/*.parquet"))
    frame = pandas.concat([pandas.read_parquet(part) for part in parts])
    assert list(frame.columns) == FIELDS, frame.columns
    found = rows(frame.image_id, frame.file_id, frame.page_number, frame.vector)
    assert found == expected, "pandas reads other rows"
    frame = polars.read_parquet(parts)
    assert frame.columns == FIELDS, frame.columns
    assert frame.schema["vector"] == polars.List(polars.Float32), frame.schema
    found = rows(frame["image_id"], frame["file_id"], frame["page_number"], frame["vector"])
    assert found == expected, "polars reads other rows"
    print(f"{len(expected)} rows in {len(parts)} files, equal to the bit")


if __name__ == "__main__":
    main(*sys.argv[1:])
