"""What tests, bench, chaos and fuzz stand on: real servers, the whole service as processes, a receiver, a proxy."""
