"""The OpenAPI document describes what an environment serves, from the endpoints alone."""
