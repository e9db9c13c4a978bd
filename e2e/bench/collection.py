"""A collection of Milvus, as LAYRA creates it."""
from pymilvus import DataType


def create_collection(client, name, dimensions):
    schema = client.create_schema(auto_id=True)
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimensions)
    schema.add_field("image_id", DataType.VARCHAR, max_length=65535)
    schema.add_field("page_number", DataType.INT64)
    schema.add_field("file_id", DataType.VARCHAR, max_length=65535)
    client.create_collection(name, schema=schema)
    index = client.prepare_index_params()
    index.add_index(field_name="vector", index_name="vector_index", index_type="HNSW",
                    metric_type="IP", params={"M": 16, "efConstruction": 500})
    client.create_index(name, index)
    client.load_collection(name)
