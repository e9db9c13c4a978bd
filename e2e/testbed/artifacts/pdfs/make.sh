# The documents of the demo and the tests: every PDF of the packages, gunzipped, under a name that
# tells its package and language apart.
debian_packages
find root -type f \( -name '*.pdf' -o -name '*.pdf.gz' \) | sort | while read -r file; do
  name=$(basename "${file%.gz}" .pdf)
  case $file in *.gz) gunzip -c "$file" ;; *) cat "$file" ;; esac >"$OUT/$name.pdf"
done
