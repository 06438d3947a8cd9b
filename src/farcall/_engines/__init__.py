"""How workers come to be and how we learn that one ended. An engine never sees a message."""
