# The S3 server.
go_build minio '' github.com/minio/minio
