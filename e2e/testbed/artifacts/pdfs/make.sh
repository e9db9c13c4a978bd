# The documents of the demo and the tests: PACKAGE.pdf, or NAME.pdf where a package has several.
mkdir debs
(cd debs && sed 's/#.*//' "$RECIPE/packages.txt" | xargs apt-get download -qq -o APT::Sandbox::User=root)
for deb in debs/*.deb; do
  package=$(basename "$deb"); package=${package%%_*}
  dpkg-deb --extract "$deb" "$package"
  mapfile -t files < <(find "$package" -type f \( -name '*.pdf' -o -name '*.pdf.gz' \) | sort)
  for file in "${files[@]}"; do
    name=$(basename "${file%.gz}" .pdf)
    if [ ${#files[@]} = 1 ]; then name=$package; fi
    case $file in *.gz) gunzip -c "$file" ;; *) cat "$file" ;; esac >"$OUT/$name.pdf"
  done
done
