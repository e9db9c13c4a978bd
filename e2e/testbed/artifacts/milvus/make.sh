# The standalone Milvus server: the wheel carries its binary and libraries, compressed, and a
# template of its configuration.
pip_wheel
python3 - wheel/*.whl "$OUT" <<'PYTHON'
import lzma, os, shutil, sys, zipfile
wheel, out = sys.argv[1:]
os.mkdir(os.path.join(out, "bin"))
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        base = os.path.basename(name)
        if name.startswith("milvus/data/bin/") and base.endswith(".lzma"):
            path = os.path.join(out, "bin", base.removesuffix(".lzma"))
            with archive.open(name) as packed, lzma.open(packed) as member, open(path, "wb") as file:
                shutil.copyfileobj(member, file)
            os.chmod(path, 0o755)
        elif base in ("config.yaml.template", "glog.conf"):
            with archive.open(name) as member, open(os.path.join(out, base), "wb") as file:
                shutil.copyfileobj(member, file)
PYTHON
