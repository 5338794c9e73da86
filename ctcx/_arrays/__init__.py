"""Array libraries seen from outside: what an array is, and how to make and read one."""
