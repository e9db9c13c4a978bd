# What images are made from without a registry: the pause image of every pod, the base of our own
# images (fonts apart: only the worker's image carries them).
debian_packages
mkdir -p "$OUT/fonts" "$OUT/fonts-noto"
mv root/usr/share/fonts/{truetype,opentype}/noto/* "$OUT/fonts-noto/"
rmdir root/usr/share/fonts/{truetype,opentype}/noto
mv root/usr/share/fonts/truetype/* "$OUT/fonts/"
# The licences of the fonts travel with them, and the list says what they are.
install -d "$OUT/licences"
for deb in debs/fonts-*.deb; do
  package=$(dpkg-deb --field "$deb" Package)
  cp "root/usr/share/doc/$package/copyright" "$OUT/licences/$package.txt"
  dpkg-deb --showformat '${Package} ${Version}\n' --show "$deb" >>"$OUT/licences/packages.txt"
done
rm -rf root/usr/share/{doc,fonts,fontconfig,lintian,man,locale,bug,common-licenses} root/etc/fonts root/usr/share/ca-certificates.keep
install -d -m 1777 root/tmp
install -d -m 755 root/etc/ssl/certs root/home/nonroot
# What the packages' installation scripts would do.
find root/usr/share/ca-certificates -name '*.crt' -print0 | sort -z | xargs -0 cat >root/etc/ssl/certs/ca-certificates.crt
cat >root/etc/passwd <<'PASSWD'
root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
PASSWD
printf 'root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n' >root/etc/group
tar -C root --owner=0 --group=0 --sort=name -cf "$OUT/base.tar" .

gcc -static -Os -s -o pause "$RECIPE/pause.c"
printf 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n' >Containerfile
buildah --root "$PWD/store" --runroot "$PWD/run" --storage-driver vfs bud --isolation chroot --quiet \
  --tag localhost/pause:1 .
buildah --root "$PWD/store" --runroot "$PWD/run" --storage-driver vfs push --quiet \
  localhost/pause:1 "oci-archive:$OUT/pause.tar:localhost/pause:1"
