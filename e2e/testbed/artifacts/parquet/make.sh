# pandas and polars, for the test that both read an archive: a folder for PYTHONPATH. The wheels are
# those for Debian's Python 3.11.
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --no-deps --require-hashes --only-binary :all: \
  --target "$OUT" --requirement "$RECIPE/requirements.txt"
rm -rf "$OUT"/{pandas,pyarrow}/tests "$OUT/pyarrow/include" "$OUT/bin"
