"""A script that somebody has made a plugin of."""

import sys

sys.exit("usage: ctcx_raises_system_exit FILE")
