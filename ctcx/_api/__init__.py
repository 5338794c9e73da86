"""The public functions. :mod:`ctcx._api.call` follows a call to a kernel and back."""
