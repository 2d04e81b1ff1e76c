"""What tests and the tools beside them stand on: real servers, the whole service as processes, a receiver, a proxy."""
