"""The frozen values that cross the line between the runtime and its plugins; no framework in them."""
