"""One proxied session, from the accepted connection to its end."""
