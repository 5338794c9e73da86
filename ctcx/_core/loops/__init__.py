"""How each library loops over frames: the one seam between the core and a library."""
