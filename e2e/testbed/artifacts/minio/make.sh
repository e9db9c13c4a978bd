# The S3 server.
go_build github.com/minio/minio minio
