"""Parts shared by all HTTP interfaces: request checks, error responses, the socket."""
