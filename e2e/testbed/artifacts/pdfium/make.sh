# The PDF renderer's library.
pip_wheel
unzip_one 'pypdfium2_raw/libpdfium.so' wheel/*.whl >"$OUT/libpdfium.so"
chmod 755 "$OUT/libpdfium.so"
unzip_one 'pypdfium2_raw/version.json' wheel/*.whl >"$OUT/version.json"
# Those of PDFium and of the libraries in it, for the images.
mkdir "$OUT/licences"
python3 - "$OUT/licences" wheel/*.whl <<'PYTHON'
import pathlib, sys, zipfile
folder, path = sys.argv[1:]
with zipfile.ZipFile(path) as archive:
    for name in archive.namelist():
        _, found, file = name.partition(".dist-info/licenses/BUILD_LICENSES/")
        if found and file:
            (pathlib.Path(folder) / file.replace("/", "-")).write_bytes(archive.read(name))
PYTHON
