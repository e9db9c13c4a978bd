# The PDF renderer's library.
pip_wheel
unzip_one 'pypdfium2_raw/libpdfium.so' wheel/*.whl >"$OUT/libpdfium.so"
chmod 755 "$OUT/libpdfium.so"
