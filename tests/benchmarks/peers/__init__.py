"""What others would write: the same echo, bare or behind the same two checks."""
