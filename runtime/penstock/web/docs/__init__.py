"""The API documentation at `/-/docs`: a page that the server renders from the OpenAPI document."""
