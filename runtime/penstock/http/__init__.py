"""HTTP without a server: bodies, addresses, certificates, problems and deadlines of calls."""
