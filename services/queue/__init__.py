"""The queue between students and teachers: one interface, in process and on Redis Streams."""
