"""Parts that every HTTP interface here shares: the guard, answers to mistakes, the socket."""
