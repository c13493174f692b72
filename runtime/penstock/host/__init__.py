"""A process is composed of parts that do not know the host: each is given what it needs."""
